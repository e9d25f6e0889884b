"""Embed, retrieve and rerank together find documents; one bad item fails alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mesh.errors import SetupError, Unprocessable
from mesh.index.build import build_index
from mesh.index.passages import Passage
from mesh.models.encoder import Encoder
from mesh.roles.base import Context
from mesh.roles.embed import Embed
from mesh.roles.rerank import Rerank
from mesh.roles.retrieve import Retrieve
from tests.support.encoders import WIDTH, tiny_encoder

TITLES = ["cat", "dog", "bird", "fish", "cat"]
CONTENTS = ["a cat purrs", "a dog barks", "a bird sings", "a fish swims", "cats sleep a lot"]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[str, str]:
    """Return (the model's source, the index folder)."""
    folder: Path = tmp_path_factory.mktemp("search")
    encoder = Encoder(tiny_encoder(folder / "model"))
    source = f"path:{folder / 'model'}"
    passages = [Passage(*pair) for pair in zip(TITLES, CONTENTS, strict=True)]
    build_index(
        folder / "index",
        lambda: passages,
        lambda: encoder.encode,
        read=lambda: encoder.token_vectors,
        model=source,
        corpus="animals",
        command="again",
        progress=lambda *_: None,
    )
    return source, str(folder / "index")


def loaded(kind, places, model=True, **options):
    role = kind(Context("r", {"index": places[1], **options}, places[0] if model else ""))
    role.load()
    return role


@pytest.fixture(scope="module")
def embed(places):
    role = Embed(Context("embed", {}, places[0]))
    role.load()
    return role


def test_a_text_becomes_one_vector_whatever_else_is_in_the_batch(embed):
    batch = embed.run([{"text": text} for text in [*CONTENTS, ""]])
    for text, answer in zip(CONTENTS, batch, strict=False):
        assert answer["vector"].shape == (WIDTH,)
        alone = embed.run([{"text": text}])[0]["vector"]
        np.testing.assert_allclose(answer["vector"], alone, atol=1e-5)
    assert embed.cost({"text": "x" * 400}) == 102
    assert embed.statistics()["width"] == WIDTH


def test_the_nearest_comes_first_with_its_similarity(embed, places):
    retrieve = loaded(Retrieve, places, k=3, words_weight=0.0)
    vector = embed.run([{"text": "bird: a bird sings"}])[0]["vector"]
    (found,) = retrieve.run([{"query": "irrelevant", "vector": vector}])
    assert found["ids"][0] == 3
    assert found["scores"][0] == pytest.approx(1.0, abs=1e-5)
    assert len(found["ids"]) == len(found["scores"]) == 3
    assert retrieve.statistics() == {"index": "animals", "kind": "flat", "documents": 5}
    retrieve.close()


def test_words_bring_in_what_vectors_would_miss(embed, places):
    retrieve = loaded(Retrieve, places, k=5, words_weight=100.0)
    vector = embed.run([{"text": "zzz"}])[0]["vector"]
    found = retrieve.run([{"query": "who barks?", "vector": vector}, {"vector": vector}])
    assert found[0]["ids"][0] == 2
    assert sorted(found[0]["ids"]) == sorted(found[1]["ids"]) == [1, 2, 3, 4, 5]
    assert found[1]["scores"] == sorted(found[1]["scores"], reverse=True)
    retrieve.close()


def test_a_document_that_only_words_found_gets_its_true_similarity(embed, places, monkeypatch):
    retrieve = loaded(Retrieve, places, k=5)
    vector = embed.run([{"text": "dog: a dog barks"}])[0]["vector"]
    monkeypatch.setattr(retrieve.index.vectors, "search", lambda *_: [[(1, 0.3)]])
    (found,) = retrieve.run([{"query": "barks", "vector": vector}])
    assert dict(zip(found["ids"], found["scores"], strict=True))[2] == pytest.approx(1, abs=1e-5)
    retrieve.close()


def test_a_vector_of_another_width_fails_alone(embed, places):
    retrieve = loaded(Retrieve, places)
    good = embed.run([{"text": "cat"}])[0]
    bad, fine = retrieve.run([{"vector": np.zeros(3, np.float32)}, good])
    assert isinstance(bad, Unprocessable)
    assert fine["ids"]
    retrieve.close()


def test_candidates_are_put_in_order_one_per_title(places):
    rerank = loaded(Rerank, places, top=3)
    (answer,) = rerank.run([{"query": "dog a dog barks", "ids": [1, 2, 5, 4, 99]}])
    documents = answer["documents"]
    assert documents[0]["title"] == "dog"
    assert len({document["title"] for document in documents}) == len(documents) == 3
    assert [d["score"] for d in documents] == sorted((d["score"] for d in documents), reverse=True)
    assert set(documents[0]) == {"id", "title", "content", "score"}
    rerank.close()


def test_the_retrievers_similarity_counts(places):
    rerank = loaded(Rerank, places)
    item = {"query": "anything", "ids": [1, 2, 3], "scores": [0.0, 0.0, 50.0]}
    assert rerank.run([item])[0]["documents"][0]["id"] == 3
    rerank.close()


def test_given_documents_are_ranked_by_their_place_in_the_list(places):
    rerank = loaded(Rerank, places, content_chars_max=4)
    given = ["zzzz", {"title": "dog", "content": "barks"}, "qqqq"]
    answer, nothing, empty = rerank.run(
        [{"query": "dog barks", "documents": given}, {"query": "x"}, {"query": "x", "ids": []}]
    )
    assert answer["documents"][0]["id"] == 1
    assert answer["documents"][0]["content"] == "bark"
    assert isinstance(nothing, Unprocessable)
    assert empty == {"documents": []}
    assert rerank.run([]) == []
    rerank.close()


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({"ids": ["1"]}, "ids: expected whole numbers, found '1'"),
        ({"ids": [1], "scores": ["x"]}, "scores: expected numbers, found 'x'"),
        ({"documents": [1]}, "documents: expected texts, or objects"),
        ({"documents": ["a"], "top": 0}, "top: expected at least 1, found 0"),
        ({}, "expected ids or documents, found neither"),
    ],
)
def test_a_wrong_item_fails_alone_and_says_why(places, item, fault):
    rerank = loaded(Rerank, places)
    wrong, right = rerank.run([{"query": "cat", **item}, {"query": "cat", "ids": [1, 1 << 63]}])
    assert isinstance(wrong, Unprocessable)
    assert fault in wrong.message
    assert [each["id"] for each in right["documents"]] == [1]
    rerank.close()


def test_what_the_index_keeps_scores_as_what_is_computed(places):
    """A reader of another length finds nothing kept that fits, and computes."""
    items = [{"query": text, "ids": [1, 2, 3, 4, 5]} for text in CONTENTS]
    reads, computes = loaded(Rerank, places), loaded(Rerank, places, read_chars_max=299)
    for kept, computed in zip(reads.run(items), computes.run(items), strict=True):
        scores, expected = (
            {each["id"]: each["score"] for each in answer["documents"]}
            for answer in (kept, computed)
        )
        assert scores == pytest.approx(expected, abs=0.01)
    assert (reads.statistics()["read_from_index"], computes.statistics()["read_from_index"]) == (
        25,
        0,
    )
    reads.close()
    computes.close()


def test_given_documents_are_never_taken_for_those_of_the_index(places):
    rerank = loaded(Rerank, places)
    (answer,) = rerank.run([{"query": "dog barks", "documents": ["zz", "dog barks"]}])
    assert answer["documents"][0]["id"] == 1
    assert rerank.statistics()["read_from_index"] == 0
    rerank.close()


def test_a_batch_ranks_as_each_question_alone_and_the_cache_stays_small(places):
    rerank = loaded(Rerank, places, cache_bytes_max=4000, read_chars_max=299)
    items = [{"query": text, "ids": [1, 2, 3, 4, 5]} for text in CONTENTS]
    together = rerank.run(items)
    assert together == [rerank.run([item])[0] for item in items]
    assert 0 < rerank.statistics()["cache_bytes"] <= 4000
    rerank.close()


def test_a_missing_index_ends_the_setup(places, tmp_path):
    with pytest.raises(SetupError, match=r"python -m tools\.corpus"):
        loaded(Retrieve, (places[0], str(tmp_path / "none")))
    with pytest.raises(SetupError, match=r"python -m tools\.corpus"):
        loaded(Rerank, (places[0], str(tmp_path / "none")))


def test_given_texts_need_no_index_and_may_come_back_as_ids(places):
    role = loaded(Rerank, places, index="")
    item = {"query": "parse a date", "documents": ["parse a date", "bake bread", "a date"]}
    (whole,) = role.run([item])
    (brief,) = role.run([item | {"top": 2, "brief": True}])
    expected = [{"id": d["id"], "score": d["score"]} for d in whole["documents"][:2]]
    assert brief["documents"] == expected
    (refused,) = role.run([{"query": "x", "ids": [1]}])
    assert "no index" in str(refused)
    role.close()


def test_tokens_are_counted_where_asked_for(embed):
    plain, counted = embed.run([{"text": "a date"}, {"text": "a date", "counts": True}])
    assert set(plain) == {"vector"}
    assert counted["tokens"] == len(embed.encoder.tokenize(["a date"])[0])

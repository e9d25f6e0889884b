"""A build that is interrupted anywhere goes on where it stopped, and ends the same."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mesh.errors import SetupError
from mesh.index import build
from mesh.index.build import build_index, is_current, version_of
from mesh.index.folder import index_folder, open_index, open_tokens
from mesh.index.passages import Passage, embedded_text

PASSAGES = [Passage(f"t{n}", f"text {n}", "c", summary="s" * (n % 2)) for n in range(20)]
MODEL = "path:/model"


class Killed(BaseException):
    """What a test raises where a process would have died."""


def encode(texts):
    """Return a vector per text that depends on it alone."""
    rows = [np.random.default_rng(list(text.encode())).standard_normal(8) for text in texts]
    vectors = np.array(rows, np.float32).reshape(-1, 8)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(build, "SHARD_ROWS", 6)


def read(texts):
    """Return two tokens per text."""
    return [np.repeat(encode([text]), 2, axis=0) for text in texts]


def made(folder, passages=PASSAGES, encode=encode, read=None, progress=lambda *_: None):
    return build_index(
        folder,
        lambda: passages,
        lambda: encode,
        read=read and (lambda: read),
        model=MODEL,
        corpus="test",
        command="again",
        progress=progress,
    )


def test_a_built_index_finds_its_passages(tmp_path):
    assert made(tmp_path / "index")
    index = open_index(tmp_path / "index", model=MODEL)
    assert (index.meta.count, index.meta.kind, index.store.count) == (20, "flat", 20)
    query = encode([embedded_text("t4", "", "text 4")])
    assert index.vectors.search(query, 1)[0][0] == (5, pytest.approx(1.0, abs=1e-5))
    index.store.close()


def test_an_index_that_is_current_is_left_alone(tmp_path):
    made(tmp_path / "index")
    assert not made(tmp_path / "index", encode=None)
    changed = [dataclasses.replace(PASSAGES[0], weight=0.5), *PASSAGES[1:]]
    assert made(tmp_path / "index", changed)


def test_weight_shortens_a_vector(tmp_path):
    made(tmp_path / "index", [Passage("a", "b", weight=0.5), *PASSAGES])
    index = open_index(tmp_path / "index")
    query = encode([embedded_text("a", "", "b")])[0]
    assert index.vectors.similarity(query, 1) == pytest.approx(0.5, abs=1e-5)
    index.store.close()


@pytest.mark.parametrize("death", range(8))
def test_a_kill_costs_at_most_one_shard(tmp_path, death):
    """Wherever the first run dies, the second embeds only what no whole shard held."""
    steps = 0
    embedded = 0

    def die(*_):
        nonlocal steps
        steps += 1
        if steps > death:
            raise Killed

    def counted(texts):
        nonlocal embedded
        embedded += sum("text" in text for text in texts)
        return encode(texts)

    with pytest.raises(Killed):
        made(tmp_path / "index", encode=counted, progress=die)
    if death < 7:
        assert not (tmp_path / "index").exists()
    made(tmp_path / "index", encode=counted)
    assert embedded == 20
    made(tmp_path / "whole")
    for name in ("vectors.faiss", "meta.json"):
        assert (tmp_path / "index" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_documents_in_the_making_are_not_mixed_in(tmp_path):
    def die(step, done, total):
        if step == "vectors" and done:
            raise Killed

    with pytest.raises(Killed):
        made(tmp_path / "index", progress=die)
    other = [Passage("x", f"other {n}") for n in range(20)]
    made(tmp_path / "index", other)
    index = open_index(tmp_path / "index")
    assert index.store.fetch([1])[0].content == "other 0"
    index.store.close()


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path):
    made(tmp_path / "index")
    (tmp_path / "index").rename(tmp_path / "index.old")
    assert not made(tmp_path / "index", encode=None)
    assert is_current(tmp_path / "index", version_of(PASSAGES, MODEL).version)


def test_an_index_without_token_vectors_gets_them_and_keeps_the_rest(tmp_path):
    made(tmp_path / "index")
    before = (tmp_path / "index" / "vectors.faiss").read_bytes()
    assert made(tmp_path / "index", encode=None, read=read)
    assert (tmp_path / "index" / "vectors.faiss").read_bytes() == before
    kept = open_tokens(tmp_path / "index", MODEL, 300)
    (vectors,) = kept.fetch([20])
    assert len(vectors) == 2
    kept.close()
    assert not made(tmp_path / "index", encode=None, read=None)
    assert not made(tmp_path / "index", encode=None, read=read)
    assert sorted(each.name for each in (tmp_path / "index").iterdir()) == [
        "documents.db", "meta.json", "tokens.safetensors", "vectors.faiss",
    ]  # fmt: skip


@pytest.mark.parametrize("death", range(14))
def test_a_kill_while_tokens_are_read_costs_at_most_one_shard(tmp_path, death):
    steps = 0
    texts_read = 0

    def die(*_):
        nonlocal steps
        steps += 1
        if steps > death:
            raise Killed

    def counted(texts):
        nonlocal texts_read
        texts_read += len(texts)
        return read(texts)

    with pytest.raises(Killed):
        made(tmp_path / "index", read=counted, progress=die)
    made(tmp_path / "index", read=counted)
    assert texts_read == 20
    made(tmp_path / "whole", read=read)
    found, whole = (tmp_path / name / "tokens.safetensors" for name in ("index", "whole"))
    assert found.read_bytes() == whole.read_bytes()


def test_an_index_without_token_vectors_is_used_and_the_log_says_so(tmp_path, caplog):
    """An index of an earlier version opens; a line tells what it costs and how to mend it."""
    made(tmp_path / "index")
    assert open_tokens(tmp_path / "index", MODEL, 300) is None
    (line,) = caplog.records
    assert line.message == "index.no_token_vectors"
    assert line.build == "again"


def test_token_vectors_of_another_reader_are_left_alone(tmp_path):
    made(tmp_path / "index", read=read)
    assert open_tokens(tmp_path / "index", "path:/other", 300) is None
    assert open_tokens(tmp_path / "index", MODEL, 200) is None
    meta = tmp_path / "index" / "meta.json"
    meta.write_text(meta.read_text().replace('"version": "', '"version": "x'))
    with pytest.raises(SetupError, match="another build"):
        open_tokens(tmp_path / "index", MODEL, 300)


def test_too_many_passages_are_left_without(tmp_path, monkeypatch):
    monkeypatch.setattr(build.tokens, "KEPT_MAX", 19)
    made(tmp_path / "index", read=read)
    assert open_tokens(tmp_path / "index", MODEL, 300) is None


def test_no_documents_are_an_error(tmp_path):
    with pytest.raises(SetupError, match="no documents"):
        made(tmp_path / "index", [])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "meta.json").unlink(), "no index"),
        (lambda folder: (folder / "meta.json").write_text("{"), "cannot read"),
        (lambda folder: (folder / "documents.db").unlink(), "no documents"),
        (lambda folder: (folder / "vectors.faiss").write_bytes(b"x"), "cannot read the index"),
        (
            lambda folder: (folder / "meta.json").write_text(
                (folder / "meta.json").read_text().replace('"count": 20', '"count": 21')
            ),
            "expected 21 vectors",
        ),
    ],
)
def test_a_spoilt_index_says_what_to_run(tmp_path, spoil, reason):
    made(tmp_path / "index")
    spoil(tmp_path / "index")
    with pytest.raises(SetupError, match=reason):
        open_index(tmp_path / "index")


def test_an_index_of_another_model_is_refused(tmp_path):
    made(tmp_path / "index")
    with pytest.raises(SetupError, match="queries come from 'path:/other'"):
        open_index(tmp_path / "index", model="path:/other")


@pytest.mark.parametrize(
    ("name", "expected"), [("", "c/index/stdlib"), ("notes", "c/index/notes"), ("./i", "i")]
)
def test_an_index_is_a_name_in_the_cache_or_a_path(tmp_path, name, expected):
    from pathlib import Path

    assert index_folder(name, Path("c")) == Path(expected)


def test_one_builds_at_a_time_and_leaves_no_lock(tmp_path):
    """Those who waited for a file that is gone take the new one, one after another."""
    path, inside, most = tmp_path / "i.lock", 0, 0

    def hold(_):
        nonlocal inside, most
        with build._locked(path):
            inside += 1
            most = max(most, inside)
            os.sched_yield()
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(40)))
    assert (most, list(tmp_path.iterdir())) == (1, [])

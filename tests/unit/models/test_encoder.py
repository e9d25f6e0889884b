"""A sentence's vector does not depend on its company, and equals what transformers says."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import SetupError
from mesh.models import bert, encoder
from mesh.models.encoder import Classifier, Encoder, batches, is_classifier, shared_encoder
from tests.support.encoders import POSITIONS, WIDTH, tiny_encoder

TEXTS = ["a", "hello world", "", "one two three four", "zz top", "x " * 200, "hello world", "é?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def tiny(folder, request) -> Encoder:
    """Return an encoder whose products are of each type, whatever this processor would take."""
    return Encoder(folder, request.param)


def test_of_megabytes_only_the_beginning_is_read(tiny):
    """What cannot be among the first tokens costs no time: it never reaches the tokenizer."""
    seen = []
    real, tiny._tokenizer = tiny._tokenizer, Seen(tiny._tokenizer, seen)
    try:
        (ids,) = tiny.tokenize(["one two three four " * 100_000])
    finally:
        tiny._tokenizer = real
    assert ids == tiny.tokenize(["one two three four " * 100])[0]
    assert max(map(len, seen)) == encoder.CHARS_PER_TOKEN_MAX * tiny.tokens_max


class Seen:
    """A tokenizer that notes what it is given."""

    def __init__(self, real, seen):
        self._real, self._seen = real, seen

    def encode_batch_fast(self, texts):
        """Note, and do as the real one."""
        self._seen.extend(texts)
        return self._real.encode_batch_fast(texts)


def test_a_batch_answers_as_each_sentence_alone(tiny):
    together = tiny.encode(TEXTS)
    alone = np.stack([tiny.encode([text])[0] for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_token_vectors_of_a_batch_are_those_of_each_alone(tiny):
    for text, vectors in zip(TEXTS, tiny.token_vectors(TEXTS), strict=True):
        np.testing.assert_allclose(vectors, tiny.token_vectors([text])[0], atol=1e-5)
        assert len(vectors) == len(tiny.tokenize([text])[0]) - 2
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_threads_share_the_passes_out_and_keep_every_text_in_its_place(tiny, monkeypatch):
    """Each thread computes passes of its own; what comes out is what one thread gives."""
    monkeypatch.setattr(encoder, "BATCH_TOKENS_MAX", 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        vectors, tokens = tiny.encode(TEXTS), tiny.token_vectors(TEXTS)
        torch.set_num_threads(3)
        np.testing.assert_allclose(tiny.encode(TEXTS), vectors, atol=1e-5)
        for one, other in zip(tiny.token_vectors(TEXTS), tokens, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        assert 3 == torch.get_num_threads(), "the caller's own number is left alone"
    finally:
        torch.set_num_threads(before)


def test_vectors_are_normalised_and_equal_texts_equal(tiny):
    vectors = tiny.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), WIDTH)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[1], vectors[6])


def test_long_texts_are_cut_at_what_the_model_can_read(tiny):
    assert len(tiny.tokenize(["x " * 500])[0]) == tiny.tokens_max == POSITIONS


def test_nothing_in_gives_nothing_out(tiny):
    assert tiny.encode([]).shape == (0, WIDTH)
    assert tiny.token_vectors([]) == []


def test_texts_just_asked_for_are_computed_once(tiny, monkeypatch):
    """Two roles of one answer share a pass; what is kept is bounded."""
    expected, computed = tiny.encode(TEXTS), []
    whole = Encoder.encode
    monkeypatch.setattr(
        Encoder, "encode", lambda self, texts: computed.extend(texts) or whole(self, texts)
    )
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(tiny.encode_shared, [TEXTS] * 4):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sorted(computed) == sorted(set(TEXTS))
    assert tiny.encode_shared([]).shape == (0, tiny.width)
    many = [f"text {n}" for n in range(encoder.RECENT_MAX + 5)]
    np.testing.assert_allclose(tiny.encode_shared(many), whole(tiny, many), atol=1e-5)
    assert len(tiny._recent) == encoder.RECENT_MAX


def test_cls_pooling_takes_the_first_token(tmp_path, tiny):
    other = Encoder(tiny_encoder(tmp_path / "cls", pooling="cls"), tiny.precision)
    ((_, states),) = other._each(["hello world"], lambda states: states.numpy())
    expected = states[0] / np.linalg.norm(states[0])
    np.testing.assert_allclose(other.encode(["hello world"])[0], expected, atol=1e-6)
    assert not np.allclose(other.encode(["hello world"]), tiny.encode(["hello world"]), atol=1e-3)


def test_narrow_products_turn_no_vector_away(folder):
    narrow, wide = (Encoder(folder, name).encode(TEXTS) for name in ("bfloat16", "float32"))
    assert (narrow * wide).sum(axis=1).min() > 0.999


def test_attention_in_parts_is_attention(monkeypatch):
    """Sentences do not meet, so any number of them may be taken at a time."""
    monkeypatch.setattr(bert, "SCORES_MAX", 4 * 7 * 7 * 2)
    parts = torch.randn(3, 5, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    expected = bert.attention(*parts)
    found = bert.attention(*parts.bfloat16())
    np.testing.assert_allclose(found.float().numpy(), expected.numpy(), atol=0.02)


def test_products_are_the_same_without_the_library_that_makes_them_fast(folder, monkeypatch):
    fast = Encoder(folder, "float32").encode(TEXTS)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    plain = Encoder(folder)
    assert plain.precision == "float32"
    np.testing.assert_allclose(plain.encode(TEXTS), fast, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_our_blocks_equal_those_of_transformers(tmp_path, kind):
    ours = Encoder(tiny_encoder(tmp_path, kind=kind), "float32")
    expected = ours.encode(TEXTS)
    ours.width, ours._hidden = encoder._general_blocks(tmp_path)
    np.testing.assert_allclose(ours.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_classifier_scores_a_batch_as_each_pair_alone(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    tiny_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**config, num_labels=3))
    model.save_pretrained(tmp_path)
    assert is_classifier(tmp_path)
    classifier = Classifier(tmp_path)
    pairs = [("a question", text) for text in TEXTS]
    alone = np.concatenate([classifier.scores([pair]) for pair in pairs])
    np.testing.assert_allclose(classifier.scores(pairs), alone, atol=1e-5)
    assert len(classifier.labels) == 3
    np.testing.assert_allclose(classifier.probabilities(TEXTS).sum(axis=1), 1, atol=1e-5)


def test_users_of_one_folder_share_one_encoder(folder):
    first = shared_encoder(folder)
    assert shared_encoder(folder / ".." / folder.name) is first


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_broken_file_is_named(tmp_path, name):
    tiny_encoder(tmp_path)
    (tmp_path / name).write_text("{ broken")
    with pytest.raises(SetupError, match=tmp_path.name):
        Encoder(tmp_path)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200), st.integers(1, 8))
def test_batches_hold_each_item_once_and_stay_small(lengths, tokens_max, items_max):
    """Every item is in exactly one batch; only a lone item may exceed the limit of tokens."""
    found = list(batches(lengths, tokens_max, items_max))
    assert sorted(at for batch in found for at in batch) == list(range(len(lengths)))
    for batch in found:
        assert 0 < len(batch) <= items_max
        longest = max(lengths[at] for at in batch)
        assert len(batch) == 1 or len(batch) * longest <= tokens_max

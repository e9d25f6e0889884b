"""A head learns its labels from few sentences, the same way each time."""

from __future__ import annotations

import numpy as np
import pytest

from mesh.errors import SetupError
from mesh.models.head import read_labelled, train

LABELLED = {"up": ["u1", "u2", "u3"], "down": ["d1", "d2"], "flat": ["f1", "f2", "f3", "f4"]}


def encode(texts):
    """Give each label a direction, each sentence a little of its own."""
    vectors = np.zeros((len(texts), 8), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        row["udf".index(text[0])] = 1
        row[3 + int(text[1])] = 0.3
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_head_tells_its_labels_apart():
    head = train(LABELLED, encode)
    chances = head.probabilities(encode(["u4", "d4", "f1"]))
    assert [head.labels[at] for at in chances.argmax(axis=1)] == ["up", "down", "flat"]
    np.testing.assert_allclose(chances.sum(axis=1), 1)


def test_training_twice_gives_the_same_weights():
    first, second = train(LABELLED, encode), train(LABELLED, encode)
    np.testing.assert_array_equal(first.weights, second.weights)


@pytest.mark.parametrize(("name", "labels"), [("sentiment", 5), ("safety", 2)])
def test_built_in_sentences_are_enough_and_unique(name, labels):
    labelled = read_labelled(name)
    assert len(labelled) == labels
    for sentences in labelled.values():
        assert len(sentences) >= 24
        assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("text", ["", "class = 1", '[[class]]\nlabel = "x"\nsentences = ["y"]'])
def test_a_bad_file_of_labels_is_refused(tmp_path, text):
    path = tmp_path / "labels.toml"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"labels\.toml"):
        read_labelled(str(path))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(SetupError, match="safety, sentiment"):
        read_labelled("nothing")

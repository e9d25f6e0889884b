"""What is kept of token vectors is what was computed, but for its length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import SetupError
from mesh.index.tokens import TokenVectors, is_of, join_parts, narrowed, save_part

WIDTH = 16
ROWS = [("a", "one two three"), ("", ""), ("b", "four"), ("c", "five six")]


def read(texts):
    """Return a unit vector per word, which depends on the word alone."""
    return [
        np.array([unit(word) for word in text.split()], np.float32).reshape(-1, WIDTH)
        for text in texts
    ]


def unit(word):
    vector = np.random.default_rng(list(word.encode())).standard_normal(WIDTH)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def path(tmp_path):
    parts = [tmp_path / "0.npy", tmp_path / "1.npy"]
    save_part(parts[0], ROWS[:2], read)
    save_part(parts[1], ROWS[2:], read)
    join_parts(tmp_path / "tokens.safetensors", parts, version="v", model="m")
    return tmp_path / "tokens.safetensors"


def test_each_document_gets_back_its_own_tokens_in_any_order(path):
    kept = TokenVectors(path)
    found = kept.fetch([4, 1, 0, 2, 5, 3])
    assert [None if one is None else len(one) for one in found] == [3, 4, None, 0, None, 2]
    for got, text in ((found[0], "c\nfive six"), (found[1], "a\none two three")):
        lengths = np.linalg.norm(got.astype(np.float32), axis=1, keepdims=True)
        cosines = (got / lengths * read([text])[0]).sum(axis=1)
        assert cosines.min() > 0.9999
    kept.close()


def test_the_file_is_one_that_its_format_names(path):
    """`safetensors` itself reads it."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        assert file.metadata()["version"] == "v"
        assert file.get_tensor("ends").tolist() == [4, 4, 6, 9]
        assert file.get_tensor("vectors").shape == (9, WIDTH)


def test_only_the_same_version_belongs_to_an_index(path, tmp_path):
    assert is_of(path, "v")
    assert not is_of(path, "w")
    assert not is_of(tmp_path / "none", "v")
    path.write_bytes(b"\x01")
    assert not is_of(path, "v")
    with pytest.raises(SetupError, match=r"python -m tools\.corpus"):
        TokenVectors(path)


@given(st.lists(st.floats(-1, 1, width=32), min_size=WIDTH, max_size=WIDTH))
def test_no_component_is_moved_by_more_than_half_a_step(row):
    """A step is the largest component over 127; a row of zeros stays one."""
    given_row = np.array([row], np.float32)
    step = np.abs(given_row).max() / 127
    kept = narrowed(given_row)
    assert kept.dtype == np.int8
    assert np.abs(kept * step - given_row).max() <= step * 0.5001

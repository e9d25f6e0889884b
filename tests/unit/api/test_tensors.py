"""Tensors of the Open Inference Protocol are read as they were written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api import tensors
from mesh.errors import BadRequest

KINDS = sorted(set(tensors.DTYPES) - {"FP16"})


def body(name, value, datatype, is_binary):
    """Return a request whose one input is what `write` made of a value."""
    wish = {"inputs": [{"name": "x", "shape": [0], "datatype": "FP32", "data": []}],
            "parameters": {"binary_data_output": is_binary}}  # fmt: skip
    asked, _ = tensors.read(json.dumps(wish).encode(), None)
    told, blobs = tensors.write({name: datatype}, {name: value}, asked)
    data = told[0].get("data")
    # Texts stay as they are: a NumPy text loses the NULs at its end.
    told[0]["data"] = data.tolist() if isinstance(data, np.ndarray) else data
    head = json.dumps({"inputs": told}).encode()
    return head + b"".join(blobs), len(head)


@given(
    datatype=st.sampled_from(KINDS),
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    is_binary=st.booleans(),
    seed=st.integers(0, 9),
)
def test_numbers_survive(datatype, shape, is_binary, seed):
    """Any type, any shape, either form."""
    value = np.random.default_rng(seed).integers(0, 2, shape).astype(tensors.DTYPES[datatype])
    _, values = tensors.read(*body("y", value, datatype, is_binary))
    assert values["y"].dtype == value.dtype
    assert np.array_equal(values["y"], value)


@given(texts=st.lists(st.text(max_size=8), max_size=5), is_binary=st.booleans())
def test_texts_survive(texts, is_binary):
    """Any text, either form."""
    _, values = tensors.read(*body("y", texts, "BYTES", is_binary))
    assert values["y"] == texts


@given(raw=st.binary(max_size=64), head_bytes=st.none() | st.integers(-1, 80))
def test_garbage_is_a_bad_request(raw, head_bytes):
    """Whatever comes in, nothing else is raised."""
    with pytest.raises(BadRequest):
        tensors.read(raw, head_bytes)

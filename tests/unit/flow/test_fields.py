"""A wrong item is refused with what was expected; a right one passes as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mesh.errors import Unprocessable
from mesh.flow.fields import Shape

SHAPE = Shape("r", {"text": str, "k": int | None, "score": float | None, "tags": list[str] | None})


def test_an_item_that_fits_is_not_touched():
    item = {"text": "a", "k": 1, "score": 0.5, "tags": ["x"]}
    assert SHAPE.check(item) is item


def test_absent_optional_fields_become_none():
    assert SHAPE.check({"text": "a"}) == {"text": "a", "k": None, "score": None, "tags": None}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({}, "missing field 'text'; expected 'text', 'k' .optional."),
        ({"text": "a", "txt": 1}, "unknown field 'txt'; expected 'text'"),
        ({"text": None}, "'text' must be a string, not null"),
        ({"text": b"a"}, "'text' must be a string, not bytes"),
        ({"text": "a", "k": True}, "'k' must be a whole number, not a boolean"),
        ({"text": "a", "k": 1.5}, "'k' must be a whole number, not a fraction"),
        ({"text": "a", "tags": "x"}, "'tags' must be a list, not a string"),
    ],
)
def test_what_does_not_fit_is_named(item, words):
    with pytest.raises(Unprocessable, match=f"role 'r': .*{words}") as caught:
        SHAPE.check(item)
    assert caught.value.role == "r"


def test_an_int_is_a_fine_float():
    assert SHAPE.check({"text": "a", "score": 1, "k": 1, "tags": []})["score"] == 1


@pytest.mark.parametrize("kind", [Any, object, Any | None])
def test_any_takes_anything(kind):
    shape = Shape("r", {"x": kind})
    for value in (None, 1, "a", [1], {"a": 1}):
        assert shape.check({"x": value})["x"] == value


def test_no_fields_named_takes_anything():
    assert Shape("r", {}).check({"a": 1}) == {"a": 1}


def test_a_list_of_numbers_becomes_the_array_that_is_wanted():
    shape = Shape("r", {"vector": np.ndarray})
    vector = shape.check({"vector": [1, 2.5]})["vector"]
    assert vector.dtype == np.float32
    assert vector.tolist() == [1.0, 2.5]
    kept = np.zeros(3, np.int64)
    assert shape.check({"vector": kept})["vector"] is kept


@pytest.mark.parametrize("value", [["a"], [[1], [1, 2]], [1e300]])
def test_a_list_that_is_no_array_is_refused(value):
    with pytest.raises(Unprocessable, match="must be an array of numbers"):
        Shape("r", {"vector": np.ndarray}).check({"vector": value})

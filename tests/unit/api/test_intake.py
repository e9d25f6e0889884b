"""What comes in is typed at the door, and a fault says what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mesh.api import intake
from mesh.errors import BadRequest, Unprocessable

BODIES = [
    (b"", BadRequest, "not JSON"),
    (b"{", BadRequest, "not JSON"),
    (b'{"a": NaN}', BadRequest, "not JSON"),
    (b"\xff", BadRequest, "not JSON"),
    (b"[]", Unprocessable, "not a list"),
    (b'"x"', Unprocessable, "not a string"),
    (b"null", Unprocessable, "not null"),
    (b"7", Unprocessable, "not a number"),
    (b"true", Unprocessable, "not a boolean"),
]


@pytest.mark.parametrize(("raw", "error", "match"), BODIES)
def test_only_json_objects_are_bodies(raw, error, match):
    with pytest.raises(error, match=match):
        intake.parsed(raw)


FITS = [
    (str, "x"),
    (int, 3),
    (float, 3),
    (float, 0.5),
    (bool, True),
    (str | None, None),
    (list, [1, "a"]),
    (list[int], [1, 2]),
    (dict, {"a": 1}),
    (Any, object()),
    (np.ndarray, [1.0, 2.0]),
    (np.ndarray | None, [1.0]),
]


@pytest.mark.parametrize(("kind", "value"), FITS)
def test_fitting_values_pass(kind, value):
    assert {"f": value} == intake.typed({"f": value}, {"f": kind})


MISFITS = [
    (str, 3),
    (int, "3"),
    (int, 0.5),
    (int, True),
    (bool, 1),
    (str, None),
    (list[int], ["a"]),
]


@pytest.mark.parametrize(("kind", "value"), MISFITS)
def test_misfits_are_named(kind, value):
    with pytest.raises(Unprocessable, match=r"^f(\[0\])? must be "):
        intake.typed({"f": value}, {"f": kind})


def test_fields_without_a_type_pass():
    assert {"g": 1} == intake.typed({"g": 1}, {"f": str})


@pytest.mark.parametrize("text", ["", "a b", "a\n", "ü", "x" * 129, "a\x7f"])
def test_bad_ids_are_refused(text):
    with pytest.raises(Unprocessable):
        intake.request_id(text)
    with pytest.raises(Unprocessable):
        intake.id_of({"request_id": text}, "default")


def test_optional_parts_of_a_body_are_taken_out_of_it():
    body = {"stream": True, "request_id": "mine", "query": "x"}
    assert intake.flag_of(body, "stream") is True
    assert intake.id_of(body, "default") == "mine"
    assert body == {"query": "x"}
    assert intake.flag_of(body, "stream") is False
    assert intake.id_of(body, "default") == "default"

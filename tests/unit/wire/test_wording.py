"""What a caller reads of a wrong value has its place, and no word of a library."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from mesh.wire.wording import misfit, sentence


class Inner(msgspec.Struct):
    role: Literal["a", "b"]
    text: str | list[str] | None = None


class Outer(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=1)] | None = 1
    heat: Annotated[float, msgspec.Meta(le=100)] = 0.0
    flag: bool = False
    stop: Annotated[list[str], msgspec.Meta(max_length=1)] = []
    table: dict[str, float] = {}
    inner: list[Inner] = []


ROWS = [
    (Outer, {"count": "1"}, "count must be a whole number, not a string"),
    (Outer, {"count": 1.5}, "count must be a whole number, not a fraction or beyond 64 bits"),
    (Outer, {"count": 0}, "count must be a whole number, at least 1"),
    (Outer, {"heat": 101}, "heat must be a number, at most 100"),
    (Outer, {"flag": "yes"}, "flag must be true or false, not a string"),
    (Outer, {"flag": None}, "flag must be true or false, not null"),
    (Outer, {"stop": ["a", "b"]}, "stop must be a list, at most 1 long"),
    (Outer, {"stop": [[]]}, "stop[0] must be a string, not a list"),
    (Outer, {"table": {"a": "b"}}, "table[...] must be a number, not a string"),
    (Outer, {"inner": [{}]}, "inner[0].role is missing"),
    (Outer, {"inner": [{"role": "x`y"}]}, "inner[0].role may not be 'x`y'"),
    (Outer, {"inner": [{"role": "a", "text": 5}]},
     "inner[0].text must be a string or a list, not a number"),
    (Inner, {}, "role is missing"),
    (Inner, [], "it must be an object, not a list"),
    (Annotated[str, msgspec.Meta(pattern="b")], "a", "it: Expected str matching regex 'b'"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "expected"), ROWS)
def test_a_wrong_value_is_told_in_a_sentence_with_its_place(kind: Any, value: Any, expected: str):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, kind)
    assert expected == sentence(caught.value, "")


def test_a_value_with_a_name_of_its_own_is_called_by_it():
    for value, expected in ((5, "tags must be a list"), (["a", 5], "tags[1] must be a string")):
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.convert(value, list[str])
        assert f"{expected}, not a number" == sentence(caught.value, "tags")


@pytest.mark.parametrize(
    ("classes", "value", "expected"),
    [
        ((str,), 1, "must be a string, not a number"),
        ((int, type(None)), 1.5, "must be a whole number, not a fraction or beyond 64 bits"),
        ((float, list), True, "must be a number or a list, not a boolean"),
        ((bool,), None, "must be true or false, not null"),
        ((dict,), b"", "must be an object, not bytes"),
    ],
)
def test_classes_have_the_names_that_callers_know(classes: Any, value: Any, expected: str):
    assert expected == misfit(classes, value)

"""An order of another node is taken only if every number of it can be meant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.errors import BadRequest
from mesh.llm.frames import Limits
from mesh.llm.order import Order, read_order, write_order

LIMITS = Limits(slots=4, cap=64, width=8, tokens_max=32)
ORDER = Order(2, 5, LIMITS, "int4", True, "127.0.0.1:1", False, b"a" * 16, b"b" * 16)


def test_an_order_comes_back_as_it_was():
    assert ORDER == read_order(write_order(ORDER))
    steady = replace(ORDER, is_steady=True, lanes=3)
    assert steady == read_order(write_order(steady))


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": -1},
        {"first": 5},
        {"first": None},
        {"last": "5"},
        {"last": 1 << 20},
        {"slots": 1 << 20},
        {"cap": 0},
        {"width": True},
        {"hidden": "int8"},
        {"form": "int2"},
        {"next": ""},
        {"next": 7},
        {"token": b""},
        {"lanes": 0},
        {"lanes": 17},
        {"lanes": None},
        {"next_token": "b" * 16},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(BadRequest):
        read_order(write_order(ORDER) | wrong)
    with pytest.raises(BadRequest):
        read_order({})

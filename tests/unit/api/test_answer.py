"""Answers are JSON whatever the value, and errors keep their status, code and place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mesh.api import answer
from mesh.errors import BY_CODE, NotFound, Overloaded, RateLimited, RoleError, Unauthorized

VALUES = [
    (np.arange(3, dtype=np.float32), [0.0, 1.0, 2.0]),
    (np.arange(4).reshape(2, 2).T, [[0, 2], [1, 3]]),
    (np.float16(0.5), 0.5),
    (np.zeros((2, 0)), [[], []]),
    (b"\x00\xff", "AP8="),
    (memoryview(b"ab"), "YWI="),
    ({1: "a"}, {"1": "a"}),
    ((1, 2), [1, 2]),
    (float("nan"), None),
    ("a\nb", "a\nb"),
]


@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_every_value_of_a_field_becomes_json(value, expected):
    assert expected == json.loads(answer.encode(value))


def test_event_is_one_line_whatever_it_says():
    block = answer.event("token", {"text": "a\n\ndata: b\r\n"})
    assert block.count(b"\n") == 3
    assert block.startswith(b"event: token\ndata: {")


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_each_error_keeps_its_status_and_code(code):
    error = BY_CODE[code]("why")
    body = answer.error_body(error, "r1")
    response = answer.failed(error, body)
    assert response.status == error.status
    assert body["error"] == {"code": code, "message": "why", "request_id": "r1"}


def test_retry_after_is_whole_seconds_and_only_where_coming_back_helps():
    assert answer.failed(Overloaded("x", retry_after_s=0.2), {}).headers["Retry-After"] == "1"
    assert answer.failed(RateLimited("x", retry_after_s=2.5), {}).headers["Retry-After"] == "3"
    assert answer.failed(Overloaded("x"), {}).headers["Retry-After"] == "1"
    assert "Retry-After" not in answer.failed(NotFound("x"), {}).headers
    assert answer.failed(Unauthorized("x"), {}).headers["WWW-Authenticate"] == "Bearer"


def test_error_says_where_it_happened():
    body = answer.error_body(RoleError("x", node="n1", role="embed"), "r")
    assert (body["error"]["node"], body["error"]["role"]) == ("n1", "embed")

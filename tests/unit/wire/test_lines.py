"""JSON lines: any chunks, any rubbish, answers that carry their id."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Overloaded, TooLarge
from mesh.wire.lines import BadLine, LineReader, LineRequest, error_line, result_line


def test_requests_are_read_whatever_the_chunks() -> None:
    data = b'{"id":"1","method":"process","params":{"a":1}}\r\n\n{"method":"x","id":7}\n{"meth'
    expected = [LineRequest("process", "1", {"a": 1}), LineRequest("x", 7)]
    assert expected == LineReader().receive_data(data)
    reader = LineReader()
    assert expected == [each for byte in data for each in reader.receive_data(bytes([byte]))]


@pytest.mark.parametrize(
    ("line", "answer_id", "code"),
    [
        (b"{nonsense", None, "invalid_json"),
        (b"\xff\xfe", None, "invalid_json"),
        (b"[" * 100_000, None, "invalid_json"),
        (b"[1]", None, "invalid_request"),
        (b'{"id":"5"}', "5", "invalid_request"),
        (b'{"id":5,"method":"m","params":[]}', 5, "invalid_request"),
    ],
)
def test_bad_lines_are_answered(line: bytes, answer_id: object, code: str) -> None:
    [bad] = LineReader().receive_data(line + b"\n")
    assert isinstance(bad, BadLine)
    answer = json.loads(bad.reply)
    assert answer_id == answer["id"]
    assert answer["error"].startswith(code + ": ")


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_garbage_never_raises(chunks: list[bytes]) -> None:
    """Any bytes within the limit are requests or bad lines."""
    reader = LineReader()
    for chunk in chunks:
        reader.receive_data(chunk)


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n"])
def test_a_line_beyond_the_limit_is_refused(data: bytes) -> None:
    with pytest.raises(TooLarge):
        LineReader(bytes_max=10).receive_data(data)


def test_answers_are_lines() -> None:
    assert b'{"id":"1","result":{"x":[1,2]}}\n' == result_line("1", {"x": np.array([1, 2])})
    assert b'{"id":2,"error":"overloaded: full"}\n' == error_line(2, Overloaded("full"))


def test_a_result_that_is_no_json_is_an_error() -> None:
    answer = json.loads(result_line("1", {"x": object()}))
    assert answer["error"].startswith("role_error: ")


@pytest.mark.parametrize("given", ["1e2", "9" * 30, "-0.5", '{"a":[null]}', '"é"', "true"])
def test_an_id_comes_back_as_it_was(given: str) -> None:
    """Any JSON value is one, a number of any length too."""
    (request,) = LineReader().receive_data(b'{"id":%b,"method":"m"}\n' % given.encode())
    assert isinstance(request, LineRequest)
    assert json.loads(given) == json.loads(result_line(request.id, {}))["id"]

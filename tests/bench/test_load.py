"""The client of the benches knows when an answer is whole, and tells only what it has seen."""

import pytest

from bench.load import Tally, figures, is_whole

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"HTTP/1.1 200", False),
        (HEAD + b"Content-Length: 2\r\n\r\n", False),
        (HEAD + b"Content-Length: 2\r\n\r\n{", False),
        (HEAD + b"content-length: 2\r\n\r\n{}", True),
        (HEAD + b"Content-Length: 0\r\n\r\n", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
    ],
)
def test_an_answer_is_whole_when_its_last_byte_is_there(data, expected):
    """By its length, or by its last chunk."""
    assert is_whole(data) is expected


def test_percentiles_need_samples_beyond_them():
    """Of 500 answers a p99 would stand on five."""
    tally = Tally()
    tally.latencies_s = [number / 1000 for number in range(500)]
    found = figures(tally, 2.0, 1.0)
    assert found["requests_per_s"] == 250.0
    assert found["p50_ms"] == 250.0
    assert "p90_ms" in found
    assert "p99_ms" not in found
    assert found["client_share"] == 0.5

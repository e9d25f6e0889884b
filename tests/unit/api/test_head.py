"""A head is plain only if aiohttp's parser reads the same in it; all else is left to aiohttp."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from mesh.api import app
from mesh.api.head import BODY_BYTES_MAX, FIELDS_MAX, HEAD_BYTES_MAX, may_begin, read

LINE = b"POST /v1/roles/mlp HTTP/1.1"
PLAIN = [LINE, b"Host: localhost", b"Content-Type: application/json", b"Content-Length: 2"]


def lines(*more, first=LINE, length=b"Content-Length: 2", host=b"Host: localhost"):
    return b"\r\n".join([part for part in (first, host, length, *more) if part])


def parsed(head: bytes):
    """Return what aiohttp's parser says of a whole request with this head; None: no request."""

    async def main():
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_headers=app.HEADERS_MAX)
        found = read(head)
        body = b"x" * (found.length if found else 2)
        try:
            messages, upgraded, tail = parser.feed_data(head + b"\r\n\r\n" + body)
        except Exception:  # noqa: BLE001 - whatever it does not take is no request
            return None
        ((message, payload),) = messages
        assert not upgraded
        assert not tail
        return message, payload.is_eof()

    return asyncio.run(main())


def test_an_ordinary_request_is_plain():
    """With its route, its length and its headers."""
    head = read(b"\r\n".join(PLAIN))
    assert (head.kind, head.name, head.path, head.length) == ("roles", "mlp", "/v1/roles/mlp", 2)
    assert head.fields["content-type"] == "application/json"
    assert read(lines(first=b"POST /v1/pipelines/a.b-c_1 HTTP/1.1")).name == "a.b-c_1"
    assert read(lines(b"Connection: Keep-Alive", b"Accept: */*", b"X-Anything: goes")) is not None


@pytest.mark.parametrize(
    "head",
    [
        lines(first=b"GET /v1/roles/mlp HTTP/1.1"),
        lines(first=b"POST /v1/roles/mlp HTTP/1.0"),
        lines(first=b"POST  /v1/roles/mlp HTTP/1.1"),
        lines(first=b"POST /v1/roles/mlp?a=1 HTTP/1.1"),
        lines(first=b"POST /v1/roles/mlp#a HTTP/1.1"),
        lines(first=b"POST /v1/roles/m%6cp HTTP/1.1"),
        lines(first=b"POST /v1/roles/.. HTTP/1.1"),
        lines(first=b"POST /v1/roles/ HTTP/1.1"),
        lines(first=b"POST http://localhost/v1/roles/mlp HTTP/1.1"),
        lines(first=b"POST /v1/members HTTP/1.1"),
        lines(first=b"POST /infer HTTP/1.1"),
        lines(first=b"\r\n" + LINE),
        lines(host=b""),
        lines(b"Host: localhost"),
        lines(length=b""),
        lines(length=b"Content-Length: 0"),
        lines(length=b"Content-Length: +2"),
        lines(length=b"Content-Length: 02"),
        lines(length=b"Content-Length: 2, 2"),
        lines(length=b"Content-Length: -2"),
        lines(length=b"Content-Length: 0x2"),
        lines(length=b"Content-Length: %d" % (BODY_BYTES_MAX + 1)),
        lines(b"Content-Length: 2"),
        lines(b"content-length: 3"),
        lines(b"Transfer-Encoding: chunked"),
        lines(b"Transfer-Encoding : chunked"),
        lines(b" Transfer-Encoding: chunked"),
        lines(b"X-A: b\nTransfer-Encoding: chunked"),
        lines(b"X-A: b\rTransfer-Encoding: chunked"),
        lines(b"X-A: b\x00"),
        lines(b"X-A: \xe9"),
        lines(b"X-A"),
        lines(b": b"),
        lines(b"Expect: 100-continue"),
        lines(b"Upgrade: h2c"),
        lines(b"Connection: close"),
        lines(b"Connection: keep-alive, upgrade"),
        lines(b"Content-Encoding: gzip"),
        lines(b"Origin: https://shop.example"),
        lines(b"X-A: 1", b"x-a: 2"),
        lines(b"X-Long: " + b"a" * HEAD_BYTES_MAX),
        lines(*[b"X-%d: a" % number for number in range(FIELDS_MAX)]),
        b"",
    ],
)
def test_everything_else_is_left_to_aiohttp(head):
    """Wrong or only unusual: it is not for the front to say."""
    assert read(head) is None


NAMES = st.sampled_from(
    [b"Host", b"host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection",
     b"Expect", b"X-A", b"X_B", b"Accept", b"Content Length", b" Content-Length", b"Upgrade",
     b"Content-Length\t", b"", b"\xc3\xa9"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [b"2", b"3", b"2 ", b"localhost", b"chunked", b"keep-alive", b"close", b"a\tb"]
    ),
    st.binary(max_size=4),
)
USUAL = st.builds(lambda name, gap, value: b"X-" + name + b":" + gap + value,
                  st.sampled_from([b"A", b"a", b"B", b"C", b"Request-ID"]),
                  st.sampled_from([b"", b" ", b"  \t"]), VALUES)  # fmt: skip
STRANGE = st.builds(lambda name, gap, value: name + b":" + gap + value, NAMES,
                  st.sampled_from([b"", b" ", b"\t", b"\n ", b"\r\n "]), VALUES)  # fmt: skip
FIRST = st.sampled_from([LINE, LINE, LINE, LINE + b" ", LINE.replace(b"1.1", b"1.0"), b"\n" + LINE])


@given(
    FIRST,
    st.lists(st.one_of(USUAL, USUAL, USUAL, STRANGE), max_size=4),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]),
)
def test_what_is_plain_means_the_same_to_aiohttp(first, fields, end):
    """The same path, headers and body; or one of two readers could be led past a guard."""
    head = end.join([first, b"Host: localhost", b"Content-Length: 2", *fields])
    head = head.replace(b"\r\n\r\n", b"\r\n")
    found = read(head)
    if found is None:
        return
    message, is_whole = parsed(head)
    assert (message.method, message.path) == ("POST", found.path)
    assert {name.lower(): value for name, value in message.headers.items()} == found.fields
    assert len(message.headers) == len(found.fields)
    assert (message.chunked, message.upgrade, message.should_close) == (False, False, False)
    assert message.compression is None
    assert is_whole


@given(st.integers(0, 40), st.binary(max_size=30))
def test_a_beginning_is_given_up_once_it_can_be_no_plain_head(size, other):
    """Bytes that are no POST to us never wait."""
    assert may_begin(LINE[:size])
    assert may_begin(other) == (
        LINE[:9].startswith(other[:9]) and other[:9] == LINE[: len(other[:9])]
    )
    assert not may_begin(b"POST /v1/" + b"a" * HEAD_BYTES_MAX)

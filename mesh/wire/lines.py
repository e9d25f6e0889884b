r"""The JSON-lines protocol without its socket: one object per line, answered by one line.

Pure. It is what a port for nodes speaks when the first byte is "{", to be tried with `nc`:

    {"id":"1","method":"ask","params":{…}}\n
    {"id":"1","result":{…}}\n      or      {"id":"1","error":"…"}\n
    {"id":null,"error":"invalid_json: …"}\n

Answers carry their id and may come in another order than the requests.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from mesh.errors import MeshError, TooLarge
from mesh.wire.wording import sentence

LINE_BYTES_MAX = 4 << 20
FIRST_BYTE = b"{"


class LineRequest(msgspec.Struct, frozen=True):
    """One request. `id` is any JSON value and comes back as it was."""

    method: str
    id: Any = None
    params: dict[str, Any] = {}


class BadLine(msgspec.Struct, frozen=True):
    """A line that is no request; `reply` is what to send back."""

    reply: bytes


_REQUEST = msgspec.json.Decoder(LineRequest)


class LineReader:
    """Bytes in, requests out."""

    def __init__(self, bytes_max: int = LINE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._tail = bytearray()

    def receive_data(self, data: bytes) -> list[LineRequest | BadLine]:
        """Return the requests that `data` completes; empty lines are skipped.

        Raises:
            TooLarge: a line is longer than the limit; nothing after it can be read.
        """
        *lines, rest = data.split(b"\n")
        requests: list[LineRequest | BadLine] = []
        for line in lines:
            if len(self._tail) + len(line) > self._bytes_max:
                raise self._too_large()
            whole = bytes(self._tail) + line
            self._tail.clear()
            if whole.strip():
                requests.append(_read(whole))
        self._tail += rest
        if len(self._tail) > self._bytes_max:
            raise self._too_large()
        return requests

    def _too_large(self) -> TooLarge:
        return TooLarge(f"expected a line of at most {self._bytes_max} bytes, found a longer one")


def _read(line: bytes) -> LineRequest | BadLine:
    try:
        try:
            return _REQUEST.decode(line)
        except msgspec.ValidationError as error:
            # JSON as far as it was read, but no request: answer to its id, if it has one.
            value = msgspec.json.decode(line)
            request_id = value.get("id") if isinstance(value, dict) else None
            return BadLine(error_line(request_id, f"invalid_request: {sentence(error, '')}"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return BadLine(error_line(None, f"invalid_json: {error}"))


def result_line(request_id: Any, result: Any) -> bytes:
    """Return the answer to a request; a result that is no JSON becomes an error."""
    try:
        told = orjson.dumps(result, option=orjson.OPT_SERIALIZE_NUMPY)
        # By itself: an id may be a number beyond the 64 bits that orjson knows.
        return b'{"id":%b,"result":%b}\n' % (msgspec.json.encode(request_id), told)
    except TypeError as error:
        return error_line(request_id, f"role_error: the answer is no JSON: {error}")


def error_line(request_id: Any, error: MeshError | str) -> bytes:
    """Return the answer to a request that failed."""
    text = error if isinstance(error, str) else f"{error.code}: {error.message}"
    return msgspec.json.encode({"id": request_id, "error": text}) + b"\n"

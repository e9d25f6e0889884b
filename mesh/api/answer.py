"""Turns values and errors into HTTP answers: JSON bodies and server-sent events.

Pure, but for aiohttp's response objects. The one place where an error of
`mesh.errors` gets its shape.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from mesh.errors import MeshError

JSON = "application/json"
EVENTS = "text/event-stream"
RETRY_AFTER_S = 1.0  # where an error of lacking capacity names no time: soon, but not at once

# Answers are data for programs: never sniffed as something else, never kept by a cache.
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

# Copied for each answer: cheaper than to let aiohttp build and check the same again.
_JSON_HEADERS = CIMultiDict({**HEADERS, "Content-Type": JSON})


def encode(value: Any) -> bytes:
    """Return `value` as JSON; arrays become lists, bytes become base64."""
    return orjson.dumps(
        value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    )


def json(value: Any, status: int = 200) -> web.Response:
    """Return a JSON answer."""
    return web.Response(body=encode(value), status=status, headers=_JSON_HEADERS.copy())


def error_body(error: MeshError, request_id: str) -> dict[str, Any]:
    """Return the standard shape of an error."""
    body = {"code": error.code, "message": error.message, "request_id": request_id}
    where = {"node": error.node, "role": error.role}
    return {"error": body | {key: value for key, value in where.items() if value}}


def failed(error: MeshError, body: Mapping[str, Any]) -> web.Response:
    """Return the answer for an error, with `Retry-After` where coming back makes sense."""
    response = json(body, error.status)
    if error.status in (429, 503):
        wait_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        response.headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def event(name: str, value: Any) -> bytes:
    """Return one server-sent event; JSON never contains a bare newline."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(value))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):  # an array that is not contiguous, or a NumPy scalar
        return value.tolist()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")

"""Turns what came in by HTTP into typed values, or into the error that says what was expected.

Shell: reads the body and the clock. Nothing behind this file sees a header or
raw JSON.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson
from aiohttp import web

from mesh.api.parts import PARTS, Types
from mesh.errors import BadRequest, DeadlineExceeded, TooLarge, Unprocessable
from mesh.observe.traces import continued
from mesh.policy import deadline
from mesh.policy.request import Priority, Request
from mesh.settings.schema import Limits
from mesh.wire.wording import kind_of, sentence

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
_chance = random.Random()  # ids are no secrets; asking the system for each would cost 2 µs
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_INTEGER = re.compile(r"-?[0-9]{1,15}")
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}


def new_id() -> str:
    """Return an id for a request that came without one."""
    return f"{_chance.getrandbits(64):016x}"


def request_id(header: str) -> str:
    """Return the caller's id.

    Raises:
        Unprocessable: the id is empty, too long, or not printable ASCII.
    """
    if not _ID.fullmatch(header):
        raise Unprocessable("X-Request-ID must be 1 to 128 printable ASCII characters, no spaces")
    return header


def asked_ms_of(headers: Mapping[str, str]) -> int | None:
    """Return the milliseconds that the caller gives; None if it names none.

    Raises:
        Unprocessable: the header is no whole number.
    """
    text = headers.get("X-Deadline-Ms")
    if text is not None and not _INTEGER.fullmatch(text):
        raise Unprocessable(f"X-Deadline-Ms must be whole milliseconds, not {text[:40]!r}")
    return None if text is None else int(text)


def priority_of(headers: Mapping[str, str]) -> Priority:
    """Return how urgent the caller says it is.

    Raises:
        Unprocessable: there is no such class.
    """
    named = headers.get("X-Priority", "normal")
    priority = _PRIORITIES.get(named)
    if priority is None:
        expected = ", ".join(_PRIORITIES)
        raise Unprocessable(f"X-Priority must be one of {expected}, not {named[:40]!r}")
    return priority


def request_of(request: web.Request, deadline_s: float = 0.0) -> Request:
    """Return who asks, until when and how urgently, from the headers.

    Args:
        request: of aiohttp, with its id already in it.
        deadline_s: time for callers that name none; 0: the node's limit.
    """
    limits, headers = request.app[PARTS].settings.limits, request.headers
    priority, asked_ms = priority_of(headers), asked_ms_of(headers)
    traceparent = headers.get("traceparent", "")
    return made(
        request[REQUEST_ID], time.monotonic(), limits, deadline_s, asked_ms, priority, traceparent
    )


def made(
    request_id: str,
    now_s: float,
    limits: Limits,
    default_s: float,
    asked_ms: int | None,
    priority: Priority,
    traceparent: str,
) -> Request:
    """Return the request that its headers describe.

    Args:
        request_id: the caller's or ours.
        now_s: when its head was here, monotonic seconds.
        limits: of this node.
        default_s: time for callers that name none; 0: the node's limit.
        asked_ms: time that the caller gives; None: it names none.
        priority: how urgent it is.
        traceparent: of the caller, or "".

    Raises:
        DeadlineExceeded: no time is left.
    """
    default_s = default_s or limits.deadline_s
    return Request(
        request_id,
        deadline.deadline_s(now_s, asked_ms, default_s, limits.deadline_s_max),
        priority,
        continued(traceparent) if traceparent else "",
    )


async def body_of(request: web.Request, deadline_s: float) -> dict[str, Any]:
    """Return the body, a JSON object.

    Raises:
        TooLarge: beyond `limits.body_bytes_max`; seen from the head where it says so.
        BadRequest: no JSON.
        Unprocessable: JSON, but no object.
        DeadlineExceeded: the body came too slowly.
    """
    if request.content.is_eof():  # it is here, as small bodies are: nothing to wait for
        return parsed(_here(request))
    return parsed(await raw_of(request, deadline_s))


async def raw_of(request: web.Request, deadline_s: float) -> bytes:
    """Return the body as it came.

    Raises:
        TooLarge: as for `body_of`.
        BadRequest: the transfer is broken.
        DeadlineExceeded: the body came too slowly.
    """
    if request.content.is_eof():
        return _here(request)
    bytes_max = request.app[PARTS].settings.limits.body_bytes_max
    if (request.content_length or 0) > bytes_max:
        raise TooLarge(f"the body has {request.content_length} bytes; at most {bytes_max} are read")
    try:
        async with asyncio.timeout(deadline_s - time.monotonic()):
            return await request.read()
    except TimeoutError as error:
        raise DeadlineExceeded("the deadline passed while the body was read") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"the body is longer than {bytes_max} bytes") from error
    except web.RequestPayloadError as error:
        said = " ".join(str(error).split()).removeprefix("400, message: ")
        raise BadRequest(f"the body cannot be read: {said}") from error


def _here(request: web.Request) -> bytes:
    """Return a body that has arrived."""
    bytes_max = request.app[PARTS].settings.limits.body_bytes_max
    raw = request.content.read_nowait()
    if len(raw) > bytes_max:
        raise TooLarge(f"the body is longer than {bytes_max} bytes")
    return raw


def parsed(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Unprocessable(f"the body must be a JSON object, not {kind_of(body)}")
    return body


def typed(fields: Mapping[str, Any], types: Types) -> dict[str, Any]:
    """Return `fields` with values of the types named; fields without a type pass as they are.

    Raises:
        Unprocessable: one field does not fit, which is named with what was expected.
    """
    return {name: _typed(name, value, types.get(name, Any)) for name, value in fields.items()}


def flag_of(body: dict[str, Any], name: str) -> bool:
    """Take an optional true or false out of the body."""
    value = body.pop(name, False)
    if not isinstance(value, bool):
        raise Unprocessable(f"{name!r} must be true or false, not {kind_of(value)}")
    return value


def id_of(body: dict[str, Any], default: str) -> str:
    """Take an optional request id out of the body."""
    value = body.pop("request_id", default)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Unprocessable("'request_id' must be 1 to 128 printable ASCII characters, no spaces")
    return value


def renamed(asked: Request, new_id: str) -> Request:
    """Return the same request under the id that its body gave."""
    return msgspec.structs.replace(asked, id=new_id)


def is_array_type(kind: Any) -> bool:
    """Return whether a role's field wants a NumPy array; says so without importing NumPy."""
    module = getattr(kind, "__module__", "") or ""
    return module.partition(".")[0] == "numpy" or "ndarray" in str(kind)


def _typed(name: str, value: Any, kind: Any) -> Any:
    if kind is Any or is_array_type(kind):
        return value  # lists become arrays where the role takes them
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Unprocessable(sentence(error, name), param=name) from error
    except TypeError:
        return value  # a type of the role's own that JSON cannot be checked against

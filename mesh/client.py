"""Asks a mesh from Python, over HTTP, through whichever of its nodes answers.

Shell: aiohttp's client. A request that meets a dead or leaving node goes on to
the next one with the same id, as long as nothing of its answer has come.

    async with Client(["http://127.0.0.1:8000", "http://127.0.0.1:8001"]) as mesh:
        reply = await mesh.ask("ask", query="How do I parse a date?")
        print(reply["answer"], reply.trace["total_ms"])
        async for event in mesh.stream("ask", query="And a time?"):
            print(event.name, event.data)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp
import orjson

from mesh.errors import (
    ConnectionLost,
    DeadlineExceeded,
    MeshError,
    RemoteProtocolError,
    Unreachable,
    from_code,
)

CONNECT_S = 2.0  # a node of one's own network answers sooner, or is not there
GRACE_S = 1.0  # the node itself says 504 at the deadline; this long its answer is waited for
EVENT_BYTES_MAX = 64 << 20  # one event; a node's answers are bounded by its frames


@dataclass(frozen=True, slots=True)
class Reply(Mapping[str, Any]):
    """The output of a pipeline; reads like a dict of its fields."""

    fields: dict[str, Any]
    trace: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __iter__(self) -> Any:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


@dataclass(frozen=True, slots=True)
class Event:
    """One part of a streamed answer: `field`, `token`, or at the end `done`."""

    name: str
    data: dict[str, Any]


class Client:
    """A mesh, seen from outside.

    Args:
        urls: of one node or of several; the first that works is used until it fails.
        api_key: where the mesh wants one.
        deadline_s: how long an answer may take, unless a call says otherwise.
    """

    def __init__(
        self, urls: str | Sequence[str], *, api_key: str = "", deadline_s: float = 60.0
    ) -> None:
        urls = [urls] if isinstance(urls, str) else list(urls)
        assert urls, "a client needs the URL of at least one node"
        self._urls = [url.rstrip("/") for url in urls]
        self._deadline_s = deadline_s
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, pipeline: str, *, deadline_s: float | None = None, request_id: str = "", **fields: Any
    ) -> Reply:
        """Return a pipeline's whole answer.

        With a `request_id` the mesh answers once: who asks again, of whichever node, gets
        the same answer.

        Raises:
            MeshError: what the mesh answered; `Unreachable` if no node could be asked.
        """
        if request_id:
            fields = {"request_id": request_id, **fields}
        body = await self._post(f"/v1/pipelines/{pipeline}", fields, deadline_s, request_id)
        return Reply(body, body.pop("trace", {}))

    async def call(
        self, role: str, *, deadline_s: float | None = None, request_id: str = "", **fields: Any
    ) -> Reply:
        """Return one role's answer."""
        body = await self._post(f"/v1/roles/{role}", fields, deadline_s, request_id)
        return Reply(body, body.pop("trace", {}))

    async def stream(
        self, pipeline: str, *, deadline_s: float | None = None, request_id: str = "", **fields: Any
    ) -> AsyncIterator[Event]:
        """Yield a pipeline's answer as it comes; leaving the loop ends the work.

        Raises:
            MeshError: as `ask`; also in the middle, when the answer cannot go on.
        """
        until_s = self._until_s(deadline_s)
        body = {**fields, "stream": True}
        path = f"/v1/pipelines/{pipeline}"
        response = await self._send("POST", path, body, until_s, request_id)
        try:
            async with aclosing(_events(response)) as events:
                async for event in events:
                    if event.name == "error":
                        raise _error(event.data, response.status)
                    yield event
        except aiohttp.ClientError as error:
            raise ConnectionLost(f"the answer broke off: {error}") from error
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed in mid-stream") from error
        finally:
            response.close()

    async def query(self, text: str, *, request_id: str = "") -> dict[str, Any]:
        """Ask through `POST /query`, the contract of the answer pipeline."""
        body = {"request_id": request_id or secrets.token_hex(8), "query": text}
        return await self._post("/query", body, None, body["request_id"])

    async def members(self) -> list[dict[str, Any]]:
        """Return the members as the node that answers sees them."""
        return list((await self.get("/v1/members"))["members"])

    async def stats(self) -> dict[str, Any]:
        """Return the statistics of the node that answers."""
        return await self.get("/stats")

    async def get(self, path: str) -> dict[str, Any]:
        """Return the JSON of any other page."""
        response = await self._send("GET", path, None, self._until_s(None), "")
        return await _json(response)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _post(
        self, path: str, fields: Mapping[str, Any], deadline_s: float | None, request_id: str
    ) -> dict[str, Any]:
        until_s = self._until_s(deadline_s)
        return await _json(await self._send("POST", path, fields, until_s, request_id))

    def _until_s(self, deadline_s: float | None) -> float:
        return time.monotonic() + (self._deadline_s if deadline_s is None else deadline_s)

    async def _send(
        self, method: str, path: str, fields: Mapping[str, Any] | None, until_s: float, rid: str
    ) -> aiohttp.ClientResponse:
        """Return the first good answer of any node, its body still unread.

        Nodes that cannot be reached or have no capacity are passed over; the one that
        answers is asked first the next time.
        """
        data = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY) if fields else None
        rid = rid or secrets.token_hex(8)
        problem: MeshError = Unreachable("no node was asked")
        for url in self._urls[:]:
            try:
                response = await self._send_once(method, url + path, data, until_s, rid)
            except Unreachable as error:
                problem = error
                self._demote(url)
                continue
            if response.status == 503:
                problem = await _failure(response)
                self._demote(url)
                continue
            if response.status >= 400:
                raise await _failure(response)
            return response
        raise problem

    async def _send_once(
        self, method: str, url: str, data: bytes | None, until_s: float, rid: str
    ) -> aiohttp.ClientResponse:
        left_s = until_s - time.monotonic()
        if left_s <= 0.0:
            raise DeadlineExceeded("the deadline passed before any node answered")
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            "X-Request-ID": rid,
            "X-Deadline-Ms": str(max(1, int(left_s * 1000.0))),
        }
        timeout = aiohttp.ClientTimeout(total=left_s + GRACE_S, sock_connect=CONNECT_S)
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)  # the caller bounds what it does at once
            self._session = aiohttp.ClientSession(connector=connector)
        try:
            return await self._session.request(
                method, url, data=data, headers=headers, timeout=timeout
            )
        except (aiohttp.ServerTimeoutError, aiohttp.ClientConnectionError) as error:
            raise Unreachable(f"{url}: {error}") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"{url} gave no answer in time") from error

    def _demote(self, url: str) -> None:
        """Ask this node last from now on."""
        self._urls.remove(url)
        self._urls.append(url)


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        body = orjson.loads(await response.read())
    except orjson.JSONDecodeError as error:
        raise RemoteProtocolError(f"{response.url} answered no JSON") from error
    except aiohttp.ClientError as error:
        raise ConnectionLost(f"the answer of {response.url} broke off: {error}") from error
    except TimeoutError as error:
        raise DeadlineExceeded(f"the answer of {response.url} did not end in time") from error
    if not isinstance(body, dict):
        raise RemoteProtocolError(f"{response.url} answered no JSON object")
    return body


async def _failure(response: aiohttp.ClientResponse) -> MeshError:
    try:
        error = _error(await _json(response), response.status)
    except RemoteProtocolError as problem:
        return problem
    wait = response.headers.get("Retry-After", "")
    error.retry_after_s = float(wait) if wait.isdecimal() else None
    return error


def _error(body: Mapping[str, Any], status: int) -> MeshError:
    """Return the error that a body describes, in the standard shape or the one of /query."""
    shape = body.get("error")
    if isinstance(shape, dict):
        where = {key: shape[key] for key in ("node", "role", "request_id") if key in shape}
        return from_code(str(shape.get("code")), str(shape.get("message")), **where)
    by_status = {400: "bad_request", 422: "unprocessable", 503: "no_capacity"}
    by_status |= {404: "not_found", 413: "too_large", 504: "deadline_exceeded"}
    return from_code(by_status.get(status, "role_error"), str(shape or f"status {status}"))


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[Event, None]:
    """Yield the server-sent events of a response."""
    rest = b""
    async for chunk in response.content.iter_any():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        if len(rest) > EVENT_BYTES_MAX:
            raise RemoteProtocolError(f"an event is longer than {EVENT_BYTES_MAX} bytes")
        for block in blocks:
            lines = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
            if b"event" in lines:
                yield Event(lines[b"event"].decode(), orjson.loads(lines.get(b"data", b"{}")))

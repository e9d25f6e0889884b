"""Brings a call to a node that serves its role, and tries another when that one fails.

Shell: `policy.balance` and `mesh.ring` choose, `policy.attempts` says whether to
go on; this file makes the calls. A role on this node is called without a socket,
by the same way otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any, Protocol

from mesh.errors import MeshError, NoOwner, NotFound, RoleError
from mesh.flow.directory import Directory, Endpoint
from mesh.flow.local import SERVICE, LocalRoles
from mesh.policy import attempts, balance, deadline
from mesh.policy.balance import View
from mesh.policy.request import Request
from mesh.ring import bounded
from mesh.roles import custom
from mesh.settings.topology import Role, Topology
from mesh.wire.messages import Answer, Call, Fields, Piece

OWNER_WAIT_S = 1.5  # a role's only node restarts, or gossip is a moment behind: worth a short wait
RING_SHARE_MAX = 1.5  # bounded load's c: no owner gets more than this times the mean
RING_FLOOR = 4  # calls in flight that never count as too many


class PeerAnswered(Protocol):
    """What `Peers.call` returns."""

    @property
    def answer(self) -> Answer:
        """The peer's answer."""

    @property
    def network_ms(self) -> float:
        """What of the call was neither queue nor run."""


class Peers(Protocol):
    """What is needed of `net.peers.Peers`."""

    async def call(self, address: str, call: Call) -> PeerAnswered:
        """Call a peer; raises `MeshError` only."""

    def stream(self, address: str, call: Call) -> AsyncIterator[Piece | Answer]:
        """Call a peer that answers in pieces; closing it cancels there."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and how it came about."""

    fields: Fields
    node: str
    queued_ms: float = 0.0
    ran_ms: float = 0.0
    network_ms: float = 0.0
    batch_size: int = 1
    attempts: int = 1
    cached: bool = False


class Router:
    """The way from a role's name to an answer.

    Args:
        directory: who serves what.
        local: this node's roles.
        peers: connections to the others.
        topology: returns the current topology.
        rng: draws between equals.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        local: LocalRoles,
        peers: Peers,
        topology: Callable[[], Topology],
        rng: Random,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._directory = directory
        self._local = local
        self._peers = peers
        self._topology = topology
        self._rng = rng
        self._clock = clock
        self._views: dict[tuple[str, str], View] = {}
        self._turns: dict[str, int] = {}
        self._retries = 0

    async def call(self, role: str, fields: Fields, request: Request) -> Answered:
        """Answer one item, somewhere.

        Raises:
            MeshError: of the last attempt, with `node` and `role` where known.
        """
        spec = self._spec(role)
        tried: list[str] = []
        while True:
            endpoint = await self._next(role, spec, fields, request, tried)
            tried.append(endpoint.name)
            try:
                return await self._call_once(role, endpoint, fields, request, len(tried))
            except MeshError as error:
                self._go_on(error, role, spec, endpoint, request, tried)

    async def stream(
        self, role: str, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answered, None]:
        """Answer one item piece by piece; the last part is `Answered`. Close it to cancel."""
        spec = self._spec(role)
        tried: list[str] = []
        has_streamed = False
        while True:
            endpoint = await self._next(role, spec, fields, request, tried)
            tried.append(endpoint.name)
            try:
                parts = self._stream_once(role, endpoint, fields, request, len(tried))
                async with aclosing(parts):
                    async for part in parts:
                        has_streamed = True
                        yield part
                return
            except MeshError as error:
                self._go_on(error, role, spec, endpoint, request, tried, has_streamed)

    async def ask(self, role: str, fields: Fields, request: Request) -> Fields:
        """Return the fields of `call`: what a role gets as `context.call`."""
        return (await self.call(role, fields, request)).fields

    def statistics(self) -> dict[str, Any]:
        """Return calls in flight and measured times per role and node."""
        found: dict[str, Any] = {"retries": self._retries, "edges": {}}
        for (role, node), view in self._views.items():
            found["edges"].setdefault(role, {})[node] = {
                "in_flight": view.in_flight,
                "call_ms": round(view.call_s * 1000.0, 3),
            }
        return found

    def _spec(self, role: str) -> Role:
        roles = self._topology().roles
        spec = roles.get(role)
        if spec is None:
            raise NotFound(f"no role {role!r}; there are {', '.join(roles) or 'none'}", role=role)
        return spec

    async def _next(
        self, role: str, spec: Role, fields: Fields, request: Request, tried: Collection[str]
    ) -> Endpoint:
        """Return the node for the next attempt; wait a moment for a role that nobody serves."""
        usable = self._usable(role, tried) or await self._wait_usable(role, request, tried)
        if len(usable) == 1:
            return usable[0]
        return self._choose(role, spec, fields, request, usable)

    def _usable(self, role: str, tried: Collection[str]) -> list[Endpoint]:
        """Return the nodes not yet tried; suspects only where there is no other."""
        left = [e for e in self._directory.endpoints(role) if e.name not in tried]
        return [endpoint for endpoint in left if not endpoint.suspect] or left

    async def _wait_usable(
        self, role: str, request: Request, tried: Collection[str]
    ) -> list[Endpoint]:
        until_s = min(request.deadline_s, self._clock() + OWNER_WAIT_S)
        usable: list[Endpoint] = []
        try:
            async with asyncio.timeout_at(until_s):
                while not usable:
                    await self._directory.wait_change(self._directory.version)
                    usable = self._usable(role, tried)
        except TimeoutError:
            if self._clock() >= request.deadline_s:
                raise deadline.exceeded(f"while no node served role {role!r}") from None
            raise NoOwner(
                f"no node serves role {role!r} now; {self._directory.explain(role)}",
                role=role,
                request_id=request.id,
                retry_after_s=1.0,
            ) from None
        return usable

    def _choose(
        self, role: str, spec: Role, fields: Fields, request: Request, usable: list[Endpoint]
    ) -> Endpoint:
        if spec.route == "ring":
            return self._owner(role, spec, fields, request, usable)
        if spec.route == "round-robin":
            turn = self._turns[role] = self._turns.get(role, -1) + 1
            return usable[turn % len(usable)]
        if spec.route == "random":
            return usable[balance.weighted([e.weight for e in usable], self._rng)]
        now_s = self._clock()
        views = [self._view(role, endpoint.name) for endpoint in usable]
        unknown_s = max(view.call_s for view in views)
        finish_s = [
            view.finish_s(now_s, endpoint.weight, unknown_s)
            for view, endpoint in zip(views, usable, strict=True)
        ]
        return usable[balance.least_loaded(finish_s, self._rng)]

    def _owner(
        self, role: str, spec: Role, fields: Fields, request: Request, usable: list[Endpoint]
    ) -> Endpoint:
        by_name = {endpoint.name: endpoint for endpoint in usable}
        key = _key(fields.get(spec.key)) if spec.key else request.id
        everyone = self._directory.ring(role).owners(key, len(self._directory.endpoints(role)))
        owners = tuple(name for name in everyone if name in by_name)
        in_flight = {name: self._view(role, name).in_flight for name in owners}
        return by_name[bounded.choose(owners, in_flight, RING_SHARE_MAX, RING_FLOOR)]

    async def _call_once(
        self, role: str, endpoint: Endpoint, fields: Fields, request: Request, attempt: int
    ) -> Answered:
        view = self._view(role, endpoint.name)
        view.in_flight += 1
        try:
            if endpoint.is_self:
                answer, network_ms = await self._local.call(role, fields, request), 0.0
            else:
                call = self._message(role, fields, request, attempt, wants_pieces=False)
                reached = await self._peers.call(endpoint.address, call)
                answer, network_ms = reached.answer, reached.network_ms
        finally:
            view.in_flight -= 1
        return self._answered(view, endpoint, answer, network_ms, attempt)

    async def _stream_once(
        self, role: str, endpoint: Endpoint, fields: Fields, request: Request, attempt: int
    ) -> AsyncGenerator[Piece | Answered, None]:
        view = self._view(role, endpoint.name)
        began_s = self._clock()
        parts = self._open(role, endpoint, fields, request, attempt)
        view.in_flight += 1
        try:
            async with aclosing(parts):  # type: ignore[type-var]
                async for part in parts:
                    if isinstance(part, Answer):
                        timing = part.timing
                        total_ms = (self._clock() - began_s) * 1000.0
                        rest_ms = max(0.0, total_ms - timing.queued_ms - timing.ran_ms)
                        network_ms = 0.0 if endpoint.is_self else rest_ms
                        yield self._answered(view, endpoint, part, network_ms, attempt)
                        return
                    yield part
        finally:
            view.in_flight -= 1
        raise RoleError(f"role {role!r} ended its stream without an answer", role=role)

    def _open(
        self, role: str, endpoint: Endpoint, fields: Fields, request: Request, attempt: int
    ) -> AsyncIterator[Piece | Answer]:
        if endpoint.is_self:
            return self._local.stream(role, fields, request)
        call = self._message(role, fields, request, attempt, wants_pieces=True)
        return self._peers.stream(endpoint.address, call)

    def _message(
        self, role: str, fields: Fields, request: Request, attempt: int, *, wants_pieces: bool
    ) -> Call:
        return Call(
            to=SERVICE + role,
            fields=fields,
            deadline_ms=deadline.left_ms(request.deadline_s, self._clock()),
            request_id=request.id,
            priority=int(request.priority),
            attempt=attempt - 1,
            traceparent=request.traceparent,
            wants_pieces=wants_pieces,
        )

    def _answered(
        self, view: View, endpoint: Endpoint, answer: Answer, network_ms: float, attempt: int
    ) -> Answered:
        timing = answer.timing
        view.answered(
            self._clock(),
            ran_ms=timing.ran_ms,
            network_ms=network_ms,
            batch_size=timing.batch_size,
            load_s=answer.load,
        )
        return Answered(
            answer.fields,
            endpoint.name,
            timing.queued_ms,
            timing.ran_ms,
            network_ms,
            timing.batch_size,
            attempt,
            timing.cached,
        )

    def _go_on(
        self,
        error: MeshError,
        role: str,
        spec: Role,
        endpoint: Endpoint,
        request: Request,
        tried: Collection[str],
        has_streamed: bool = False,
    ) -> None:
        """Return if another node may be tried; raise `error` if not."""
        error.role = error.role or role
        error.node = error.node or endpoint.name
        error.request_id = error.request_id or request.id
        if not attempts.may_retry(
            error,
            attempts=len(tried),
            is_idempotent=custom.is_idempotent(spec.kind),
            has_streamed=has_streamed,
            others=len(self._usable(role, tried)),
            left_s=request.left_s(self._clock()),
        ):
            raise error
        self._retries += 1

    def _view(self, role: str, node: str) -> View:
        view = self._views.get((role, node))
        if view is None:
            view = self._views[role, node] = View(self._clock())
        return view


def _key(value: Any) -> str | bytes:
    """Return what a field's value hashes as, the same on every node."""
    if isinstance(value, str | bytes):
        return value
    if hasattr(value, "tobytes"):
        return bytes(value.tobytes())
    return repr(value)

"""Makes one call to one node, here or there, and notes how it went.

Shell: the router says whom to ask. Every call that leaves comes back to its edge
exactly once: answered, failed, or given up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from random import Random
from typing import Protocol

import msgspec

from mesh.errors import MeshError, RoleError
from mesh.flow.directory import Endpoint
from mesh.flow.local import SERVICE, LocalRoles
from mesh.net.serving import Cancellable
from mesh.observe.traces import begun
from mesh.policy.deadline import left_ms
from mesh.policy.edge import Edge
from mesh.policy.request import Request
from mesh.wire.messages import Answer, Call, Fields, Piece


class PeerAnswered(Protocol):
    """What `Peers.call` returns."""

    @property
    def answer(self) -> Answer:
        """The peer's answer."""

    @property
    def network_ms(self) -> float:
        """What of the call was neither queue nor run."""


PeerTell = Callable[[PeerAnswered | MeshError], None]
Tell = Callable[[Answer | PeerAnswered | MeshError], None]


class Peers(Protocol):
    """What is needed of `net.peers.Peers`."""

    async def call(self, address: str, call: Call) -> PeerAnswered:
        """Call a peer; raises `MeshError` only."""

    def start(self, address: str, call: Call, tell: PeerTell) -> Cancellable | None:
        """Begin `call` without a task; None, and nothing was sent, if only `call` can."""

    def stream(self, address: str, call: Call) -> AsyncIterator[Piece | Answer]:
        """Call a peer that answers in pieces; closing it cancels there."""

    def quiet(self) -> set[str]:
        """Return the addresses that do not answer pings now."""


class Answered(msgspec.Struct, frozen=True):
    """An answer, and how it came about."""

    fields: Fields
    node: str
    queued_ms: float = 0.0
    ran_ms: float = 0.0
    network_ms: float = 0.0
    batch_size: int = 1
    attempts: int = 1
    cached: bool = False
    version: str = ""


class Reach:
    """Calls to endpoints, and what was learnt of each.

    Args:
        local: this node's roles.
        peers: connections to the others.
        rng: jitters how long breakers stay open.
        clock: monotonic seconds.
    """

    def __init__(
        self, local: LocalRoles, peers: Peers, rng: Random, clock: Callable[[], float]
    ) -> None:
        self._local = local
        self._peers = peers
        self._rng = rng
        self._clock = clock
        self._edges: dict[tuple[str, str], Edge] = {}

    @property
    def edges(self) -> dict[tuple[str, str], Edge]:
        """Edges by role and address."""
        return self._edges

    def now_s(self) -> float:
        """Return the time by which calls are measured."""
        return self._clock()

    def edge(self, role: str, address: str) -> Edge:
        """Return what is known of a role at an address."""
        edge = self._edges.get((role, address))
        if edge is None:
            edge = self._edges[role, address] = Edge(self._clock())
        return edge

    def keep(self, addresses: set[str]) -> None:
        """Forget addresses that are gone for good, unless calls to them are still out."""
        for key in [key for key in self._edges if key[1] not in addresses]:
            if not self._edges[key].view.in_flight:
                del self._edges[key]

    async def call(
        self, role: str, endpoint: Endpoint, fields: Fields, request: Request, attempt: int
    ) -> Answered:
        """Call a role at one node."""
        edge = self.edge(role, endpoint.address)
        began_s = self._clock()
        edge.sent(began_s)
        try:
            if endpoint.is_self:
                answer, network_ms = await self._local.call(role, fields, request), 0.0
            else:
                call = self._message(role, fields, request, attempt, wants_pieces=False)
                reached = await self._peers.call(endpoint.address, call)
                answer, network_ms = reached.answer, reached.network_ms
        except MeshError as error:
            self.failed(edge, error, began_s)
            raise
        except BaseException:
            self.abandoned(edge, began_s)
            raise
        return self.answered(edge, endpoint, answer, network_ms, attempt, began_s)

    def start(
        self, role: str, endpoint: Endpoint, fields: Fields, request: Request, tell: Tell
    ) -> Cancellable | None:
        """Begin a first call without a task, and tell how it ended; the edge is the caller's.

        Returns:
            What cancels it; None, and nothing has begun, if only `call` can.

        Raises:
            MeshError: as `call`; nothing will be told.
        """
        if endpoint.is_self:
            return self._local.start(role, fields, request, tell)
        call = self._message(role, fields, request, 1, wants_pieces=False)
        return self._peers.start(endpoint.address, call, tell)

    async def stream(
        self, role: str, endpoint: Endpoint, fields: Fields, request: Request, attempt: int
    ) -> AsyncGenerator[Piece | Answered, None]:
        """Call a role at one node for pieces; the last part is `Answered`."""
        edge = self.edge(role, endpoint.address)
        began_s, has_begun = self._clock(), False
        edge.sent(began_s)
        try:
            async with aclosing(self._open(role, endpoint, fields, request, attempt)) as parts:  # type: ignore[type-var]
                async for part in parts:
                    if isinstance(part, Answer):
                        break
                    if not has_begun:
                        has_begun = True
                        edge.began()
                    yield part
                else:
                    raise RoleError(f"role {role!r} ended its stream without an answer", role=role)
        except MeshError as error:
            self.failed(edge, error, began_s, has_begun=has_begun)
            raise
        except BaseException:
            self.abandoned(edge, began_s, has_begun=has_begun)
            raise
        timing = part.timing
        total_ms = (self._clock() - began_s) * 1000.0
        rest_ms = max(0.0, total_ms - timing.queued_ms - timing.ran_ms)
        network_ms = 0.0 if endpoint.is_self else rest_ms
        how = (part, network_ms, attempt, began_s)
        yield self.answered(edge, endpoint, *how, has_begun=has_begun)

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
            deadline_ms=left_ms(request.deadline_s, self._clock()),
            request_id=request.id,
            priority=int(request.priority),
            attempt=attempt - 1,
            traceparent=request.traceparent or begun(request.id),
            wants_pieces=wants_pieces,
        )

    def failed(
        self, edge: Edge, error: MeshError, began_s: float, *, has_begun: bool = False
    ) -> None:
        """Note a call that ended in an error."""
        now_s = self._clock()
        edge.failed(error, now_s, now_s - began_s, self._rng, has_begun=has_begun)

    def abandoned(self, edge: Edge, began_s: float, *, has_begun: bool = False) -> None:
        """Note a call that we gave up."""
        now_s = self._clock()
        edge.abandoned(now_s, now_s - began_s, has_begun=has_begun)

    def answered(
        self,
        edge: Edge,
        endpoint: Endpoint,
        answer: Answer,
        network_ms: float,
        attempt: int,
        began_s: float,
        *,
        has_begun: bool = False,
    ) -> Answered:
        """Note an answer, and return it with how it came about."""
        now_s, timing = self._clock(), answer.timing
        edge.answered(now_s, now_s - began_s, has_begun=has_begun)
        edge.view.answered(
            now_s,
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

"""Brings a call to a node that serves its role, and to another when that one fails or lags.

Shell: `policy.edge`, `policy.balance` and `mesh.ring` choose, `policy.attempts` and
`policy.budget` say whether to go on; `flow.reach` makes the calls. A role on this
node is called without a socket, by the same way otherwise.

    choose --> reach --answer--> done
      ^          |
      |          |-- error that another node may not have --> next node (attempts, budget)
      |          '-- late, or its node is suspected ---------> a second node too (race)
      '-- nobody serves it now: wait a moment
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import aclosing
from random import Random
from time import monotonic
from typing import Any

from mesh.errors import (
    AttemptsSpent,
    BreakerOpen,
    CapacityError,
    MeshError,
    NoOwner,
    NotFound,
    PeerError,
    PeerTimeout,
)
from mesh.flow.directory import Directory, Endpoint
from mesh.flow.local import LocalRoles
from mesh.flow.race import Interruption, Race
from mesh.flow.reach import Answered, Peers, Reach
from mesh.policy import attempts, balance, budget, deadline
from mesh.policy.budget import Budget
from mesh.policy.edge import fit, hedge_after_s
from mesh.policy.request import Request
from mesh.ring import bounded
from mesh.roles import custom
from mesh.settings.topology import Role, Topology
from mesh.wire.messages import Fields, Piece

__all__ = ["Answered", "Router"]

OWNER_WAIT_S = 1.5  # a role's only node restarts, or gossip is a moment behind: worth a short wait


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
        self._topology = topology
        self._rng = rng
        self._clock = clock
        self._reach = Reach(local, peers, rng, clock)
        self._turns: dict[str, int] = {}
        self._retries: dict[str, Budget] = {}
        self._hedges: dict[str, Budget] = {}
        self._doubts: dict[str, set[Callable[[], None]]] = {}
        self._failovers = 0

    async def run(self) -> None:
        """Watch membership until cancelled: who waits for a node in doubt asks another too."""
        while True:
            version = self._directory.version
            for address in self._directory.doubtful():
                for doubt in tuple(self._doubts.get(address, ())):
                    doubt()
            self._reach.keep(self._directory.addresses())
            await self._directory.wait_change(version)

    async def call(self, role: str, fields: Fields, request: Request) -> Answered:
        """Answer one item, somewhere.

        Raises:
            MeshError: of the last attempt, with `node` and `role` where known.
        """
        spec = self._spec(role)
        tried: list[str] = []
        while True:
            usable = self._usable(role, tried) or await self._wait_usable(role, request, tried)
            endpoint = self._choose(role, spec, fields, request, usable)
            tried.append(endpoint.name)
            try:
                if len(usable) == 1 or not custom.is_idempotent(spec.kind):
                    return await self._reach.call(role, endpoint, fields, request, len(tried))
                return await self._race(role, spec, fields, request, endpoint, usable, tried)
            except MeshError as error:
                await self._go_on(error, role, spec, endpoint, request, tried)

    async def stream(
        self, role: str, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answered, None]:
        """Answer one item piece by piece; the last part is `Answered`. Close it to cancel."""
        spec = self._spec(role)
        tried: list[str] = []
        has_streamed = False
        while True:
            usable = self._usable(role, tried) or await self._wait_usable(role, request, tried)
            endpoint = self._choose(role, spec, fields, request, usable)
            tried.append(endpoint.name)
            try:
                opened = self._reach.stream(role, endpoint, fields, request, len(tried))
                async with aclosing(opened) as parts:
                    if len(usable) > 1 and custom.is_idempotent(spec.kind):
                        first = await self._first(parts, role, endpoint)
                        has_streamed = True
                        yield first
                    async for part in parts:
                        has_streamed = True
                        yield part
                return
            except MeshError as error:
                await self._go_on(error, role, spec, endpoint, request, tried, has_streamed)

    async def ask(self, role: str, fields: Fields, request: Request) -> Fields:
        """Return the fields of `call`: what a role gets as `context.call`."""
        return (await self.call(role, fields, request)).fields

    def statistics(self) -> dict[str, Any]:
        """Return attempts and, per role and address, what this door knows."""
        edges: dict[str, dict[str, Any]] = {}
        for (role, address), edge in self._reach.edges.items():
            p95_s = edge.p95_s()
            edges.setdefault(role, {})[address] = {
                "calls": edge.calls,
                "failures": edge.failures,
                "in_flight": edge.view.in_flight,
                "call_ms": round(edge.view.call_s * 1000.0, 3),
                "p95_ms": None if p95_s is None else round(p95_s * 1000.0, 3),
                "breaker": edge.breaker.state.value,
            }
        return {
            "retries": sum(b.spent for b in self._retries.values()) + self._failovers,
            "failovers": self._failovers,
            "hedges": sum(b.spent for b in self._hedges.values()),
            "budget_refused": sum(
                b.refused for b in (*self._retries.values(), *self._hedges.values())
            ),
            "edges": edges,
        }

    # ------------------------------------------------------------------ choosing

    def _spec(self, role: str) -> Role:
        roles = self._topology().roles
        spec = roles.get(role)
        if spec is None:
            raise NotFound(f"no role {role!r}; there are {', '.join(roles) or 'none'}", role=role)
        return spec

    def _usable(self, role: str, tried: Collection[str]) -> list[Endpoint]:
        """Return the nodes not yet tried that are fit; suspects only where there is no other."""
        endpoints = self._directory.endpoints(role)
        left = [e for e in endpoints if e.name not in tried] if tried else list(endpoints)
        if not left:
            return left
        edges = [self._reach.edge(role, endpoint.address) for endpoint in left]
        fits = [left[index] for index in fit(edges, self._clock())]
        return [endpoint for endpoint in fits if not endpoint.suspect] or fits

    async def _wait_usable(
        self, role: str, request: Request, tried: Collection[str]
    ) -> list[Endpoint]:
        """Wait a moment until some node serves the role, or a breaker lets a call try."""
        until_s = min(request.deadline_s, self._clock() + OWNER_WAIT_S)
        usable: list[Endpoint] = []
        while not usable:
            now_s = self._clock()
            if now_s >= until_s:
                raise self._nobody(role, request)
            try:
                async with asyncio.timeout_at(min(until_s, self._try_at_s(role, tried, until_s))):
                    await self._directory.wait_change(self._directory.version)
            except TimeoutError:
                pass  # looked at above: a breaker may be due, or the wait is over
            usable = self._usable(role, tried)
        return usable

    def _try_at_s(self, role: str, tried: Collection[str], until_s: float) -> float:
        """Return when the first breaker lets a call try; a probe under way is looked at again."""
        now_s = self._clock()
        found = [
            max(self._reach.edge(role, e.address).breaker.try_at_s(now_s), now_s + PROBE_LOOK_S)
            for e in self._directory.endpoints(role)
            if e.name not in tried
        ]
        return min(found, default=until_s)

    def _nobody(self, role: str, request: Request) -> MeshError:
        if self._clock() >= request.deadline_s:
            return deadline.exceeded(f"while no node served role {role!r}")
        where = {"role": role, "request_id": request.id}
        if self._directory.endpoints(role):
            what = f"every node of role {role!r} failed lately and is left alone for a moment"
            return BreakerOpen(what, retry_after_s=1.0, **where)
        what = f"no node serves role {role!r} now; {self._directory.explain(role)}"
        return NoOwner(what, retry_after_s=1.0, **where)

    def _choose(
        self, role: str, spec: Role, fields: Fields, request: Request, usable: list[Endpoint]
    ) -> Endpoint:
        if len(usable) == 1:
            return usable[0]
        if spec.route == "ring":
            return self._owner(role, spec, fields, request, usable)
        if spec.route == "round-robin":
            turn = self._turns[role] = self._turns.get(role, -1) + 1
            return usable[turn % len(usable)]
        if spec.route == "random":
            return usable[balance.weighted([e.weight for e in usable], self._rng)]
        now_s = self._clock()
        views = [self._reach.edge(role, endpoint.address).view for endpoint in usable]
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
        in_flight = {
            name: self._reach.edge(role, by_name[name].address).view.in_flight for name in owners
        }
        weights = {name: by_name[name].weight for name in owners}
        return by_name[bounded.choose(owners, in_flight, weights=weights)]

    # ------------------------------------------------------------------ going on

    async def _race(
        self,
        role: str,
        spec: Role,
        fields: Fields,
        request: Request,
        endpoint: Endpoint,
        usable: list[Endpoint],
        tried: list[str],
    ) -> Answered:
        """Call a node; ask a second one when it is late or its node is in doubt."""

        def second(*, is_free: bool = False) -> Coroutine[Any, Any, Answered] | None:
            others = self._usable(role, tried)
            if not others or not (is_free or hedges.try_spend(self._clock())):
                return None
            other = self._choose(role, spec, fields, request, others)
            tried.append(other.name)
            return self._reach.call(role, other, fields, request, len(tried))

        def doubt() -> None:
            race.start(lambda: second(is_free=True))

        hedges = self._budget(self._hedges, role, budget.HEDGE_SHARE, budget.HEDGE_FLOOR_PER_S)
        race: Race[Answered] = Race(second)
        edges = [self._reach.edge(role, e.address) for e in usable]
        after_s = hedge_after_s(edges, attempts.HEDGE_S_MIN)
        if after_s is not None and len(tried) == 1:
            hedges.earn()
            race.start_after(after_s)
        first = self._reach.call(role, endpoint, fields, request, len(tried))
        with _Doubt(self._doubts, endpoint, doubt):
            return await race.run(first)

    async def _first(
        self, parts: AsyncGenerator[Piece | Answered, None], role: str, endpoint: Endpoint
    ) -> Piece | Answered:
        """Return the first part of a stream, or give its node up when that is in doubt."""
        interruption = Interruption()
        with _Doubt(self._doubts, endpoint, interruption.fire), interruption:
            return await anext(parts)
        raise PeerTimeout(
            f"node {endpoint.name!r} fell silent before its answer began",
            node=endpoint.name,
            role=role,
        )

    async def _go_on(
        self,
        error: MeshError,
        role: str,
        spec: Role,
        endpoint: Endpoint,
        request: Request,
        tried: Collection[str],
        has_streamed: bool = False,
    ) -> None:
        """Return when another node may be tried; raise if none is to be."""
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
            if isinstance(error, PeerError) and not self._usable(role, tried):
                error.message += f"; no other node can serve role {role!r} now"
            raise error
        if not isinstance(error, CapacityError):
            self._failovers += 1
            return
        retries = self._budget(self._retries, role, budget.RETRY_SHARE, budget.RETRY_FLOOR_PER_S)
        if not retries.try_spend(self._clock()):
            raise AttemptsSpent(
                f"{error.message}; no other node was asked, as too many calls were refused lately",
                node=error.node,
                role=role,
                request_id=request.id,
                retry_after_s=error.retry_after_s or 1.0,
            ) from error
        await asyncio.sleep(attempts.backoff_s(len(tried), self._rng))

    def _budget(
        self, budgets: dict[str, Budget], role: str, share: float, floor_per_s: float
    ) -> Budget:
        found = budgets.get(role)
        if found is None:
            found = budgets[role] = Budget(share, floor_per_s, self._clock())
        return found


PROBE_LOOK_S = 0.05  # how often who waits for an open breaker looks at it


class _Doubt:
    """While a call waits for a node, what to do when that node is in doubt."""

    __slots__ = ("_action", "_address", "_doubts")

    def __init__(
        self,
        doubts: dict[str, set[Callable[[], None]]],
        endpoint: Endpoint,
        action: Callable[[], None],
    ) -> None:
        self._doubts = doubts
        self._address = "" if endpoint.is_self else endpoint.address
        self._action = action

    def __enter__(self) -> None:
        if self._address:
            self._doubts.setdefault(self._address, set()).add(self._action)

    def __exit__(self, *_: object) -> None:
        if self._address:
            waiting = self._doubts[self._address]
            waiting.discard(self._action)
            if not waiting:
                del self._doubts[self._address]


def _key(value: Any) -> str | bytes:
    """Return what a field's value hashes as, the same on every node."""
    if isinstance(value, str | bytes):
        return value
    if hasattr(value, "tobytes"):
        return bytes(value.tobytes())
    return repr(value)

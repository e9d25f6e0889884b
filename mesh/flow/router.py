"""Brings a call to a node that serves its role, and to another when that one fails or lags.

Shell: `policy.edge`, `policy.balance` and `mesh.ring` choose, `flow.again` says whether to
go on; `flow.reach` makes the calls. A role on this node is called without a socket, by the
same way otherwise.

    choose --> reach --answer--> done
      ^          |
      |          |-- error that another node may not have --> next node (again)
      |          '-- late, or its node is suspected ---------> a second node too (race)
      '-- nobody serves it now: wait a moment
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import aclosing
from random import Random
from time import monotonic
from typing import Any

from msgspec import structs

from mesh.errors import BreakerOpen, MeshError, NotFound, PeerTimeout
from mesh.flow.again import Again
from mesh.flow.choose import Chooser, version_key
from mesh.flow.directory import Directory, Endpoint
from mesh.flow.doubt import Doubts
from mesh.flow.local import LocalRoles
from mesh.flow.race import Interruption, Race
from mesh.flow.reach import Answered, Peers, Reach
from mesh.flow.shadow import Shadows
from mesh.flow.start import Start, Tell
from mesh.policy import attempts, budget, versions
from mesh.policy.attempts import Tried
from mesh.policy.budget import Budgets
from mesh.policy.edge import hedge_after_s
from mesh.policy.request import Request
from mesh.roles import custom
from mesh.roles.base import RESUME
from mesh.settings.topology import Role, Topology
from mesh.wire.messages import Fields, Piece

__all__ = ["Answered", "Router"]

QUIET_LOOK_S = 0.5  # how often this node's own connections are looked at
GIVEN_MAX = 100_000  # pieces kept of a stream so that it can go on elsewhere; longer ones cannot


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
        self._peers = peers
        self._rng = rng
        self._clock = clock
        self._reach = Reach(local, peers, rng, clock)
        self.doubts = Doubts()
        self._chooser = Chooser(directory, self._reach, rng, self.doubts, clock)
        self._again = Again(self._chooser, directory, rng, clock)
        self._hedges = Budgets(budget.HEDGE_SHARE, budget.HEDGE_FLOOR_PER_S, clock)
        self._resumed = 0
        self._shadows = Shadows(self.call)

    async def run(self) -> None:
        """Watch who is in doubt until cancelled: who waits for such a node asks another too.

        Membership says so, or this node's own connection: a line may be cut that the others
        do not need.
        """
        try:
            while True:
                version = self._directory.version
                self.doubts.raise_at([*self._directory.doubtful(), *self._peers.quiet()])
                self._reach.keep(self._directory.addresses())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(QUIET_LOOK_S):
                        await self._directory.wait_change(version)
        finally:
            await self._shadows.aclose()

    def call(self, role: str, fields: Fields, request: Request) -> Coroutine[Any, Any, Answered]:
        """Answer one item, somewhere; to be awaited.

        Raises:
            MeshError: `NotFound` at once; else of the last attempt, with `node` and `role`
                where known.
        """
        spec = self._spec(role)
        if spec.versions:
            return self._call_version(role, spec, fields, request)
        return self._call(role, spec, fields, request)

    def start(self, role: str, fields: Fields, request: Request, tell: Tell) -> Start | None:
        """Begin a call as `call` does, but without a task, and tell how it ended.

        Only where nothing need be chosen: one node alone serves the role. Its errors are
        treated as those of `call`, by a task.

        Returns:
            What cancels it; None if only `call` can, and nothing has begun.

        Raises:
            NotFound: there is no such role.
        """
        spec = self._spec(role)
        endpoint = None if spec.versions else self._chooser.lone(role)
        if endpoint is None:
            return None

        def go_on(error: MeshError) -> Coroutine[Any, Any, Answered]:
            return self._call(role, spec, fields, request, (endpoint, error))

        start = Start(self._reach, self._reach.edge(role, endpoint.address), endpoint, go_on, tell)
        return start if start.begin(role, fields, request) else None

    async def stream(
        self, role: str, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answered, None]:
        """Answer one item piece by piece; the last part is `Answered`. Close it to cancel."""
        spec, version = self._spec(role), ""
        if spec.versions:
            version, role, spec = self._version(role, spec, fields, request)
        async with aclosing(self._stream(role, spec, fields, request)) as parts:
            async for part in parts:
                is_last = version and isinstance(part, Answered)
                yield structs.replace(part, version=version) if is_last else part

    async def ask(self, role: str, fields: Fields, request: Request) -> Fields:
        """Return the fields of `call`: what a role gets as `context.call`."""
        return (await self.call(role, fields, request)).fields

    async def _call_version(
        self, role: str, spec: Role, fields: Fields, request: Request
    ) -> Answered:
        version, role, spec = self._version(role, spec, fields, request)
        answered = await self._call(role, spec, fields, request)
        return structs.replace(answered, version=version)

    async def _call(
        self,
        role: str,
        spec: Role,
        fields: Fields,
        request: Request,
        failed: tuple[Endpoint, MeshError] | None = None,
    ) -> Answered:
        """Try one node after another; `failed` has been tried by `start`."""
        tried = Tried()
        if failed is not None:
            endpoint, error = failed
            tried.add(endpoint.name)
            await self._again.go_on(error, role, spec, endpoint, request, tried)
        while True:
            usable = self._chooser.usable(role, tried.names)
            if not usable:
                usable = await self._chooser.wait_usable(role, request, tried.names)
            endpoint = self._chooser.choose(role, spec, fields, request, usable)
            tried.add(endpoint.name)
            try:
                if len(usable) == 1 or not custom.is_idempotent(spec.kind):
                    return await self._reach.call(role, endpoint, fields, request, tried.count)
                return await self._race(role, spec, fields, request, endpoint, usable, tried)
            except MeshError as error:
                await self._again.go_on(error, role, spec, endpoint, request, tried)

    async def _stream(
        self, role: str, spec: Role, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answered, None]:
        tried = Tried()
        given: list[Fields] = []  # what another node would need to go on
        has_begun = False
        is_idempotent, can_resume = custom.is_idempotent(spec.kind), custom.is_resumable(spec.kind)
        while True:
            usable = self._chooser.usable(role, tried.names)
            if not usable:
                usable = await self._chooser.wait_usable(role, request, tried.names)
            endpoint = self._chooser.choose(role, spec, fields, request, usable)
            tried.add(endpoint.name)
            item = {**fields, RESUME: given} if given else fields
            try:
                opened = self._reach.stream(role, endpoint, item, request, tried.count)
                async with aclosing(opened) as parts:
                    while True:
                        if is_idempotent and (can_resume or not has_begun):
                            part = await self._next(parts, role, endpoint, tried.names, has_begun)
                        else:
                            part = await anext(parts)
                        if isinstance(part, Answered):
                            yield part
                            return
                        has_begun = True
                        can_resume = can_resume and len(given) < GIVEN_MAX
                        if can_resume:
                            given.append(part.fields)
                            tried = Tried(endpoint.name)  # it went on: failures are forgiven
                        yield part
            except MeshError as error:
                is_lost = has_begun and not can_resume
                await self._again.go_on(error, role, spec, endpoint, request, tried, is_lost)
                self._resumed += has_begun

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
            "shadows": self._shadows.statistics(),
            "retries": self._again.retries.spent + self._again.failovers,
            "failovers": self._again.failovers,
            "resumed": self._resumed,
            "hedges": self._hedges.spent,
            "budget_refused": self._again.retries.refused + self._hedges.refused,
            "edges": edges,
        }

    def _spec(self, role: str) -> Role:
        roles = self._topology().roles
        spec = roles.get(role)
        if spec is None:
            raise NotFound(f"no role {role!r}; there are {', '.join(roles) or 'none'}", role=role)
        return spec

    def _version(
        self, role: str, spec: Role, fields: Fields, request: Request
    ) -> tuple[str, str, Role]:
        """Return the version that answers, its role and spec, and call those that shadow.

        A version that no node serves now leaves its share to the role itself.
        """
        point = versions.point_of(role, version_key(spec, fields, request))
        for name in versions.shadows(spec.versions, point):
            self._shadows.start(spec.versions[name].role, fields, request)
        name = versions.choose(spec.versions, point)
        if not name or not self._chooser.usable(spec.versions[name].role, ()):
            return "", role, spec
        target = spec.versions[name].role
        return name, target, self._spec(target)

    # ------------------------------------------------------------------ going on

    async def _race(
        self,
        role: str,
        spec: Role,
        fields: Fields,
        request: Request,
        endpoint: Endpoint,
        usable: list[Endpoint],
        tried: Tried,
    ) -> Answered:
        """Call a node; ask a second one when it is late or its node is in doubt."""

        def second(*, is_free: bool = False) -> Coroutine[Any, Any, Answered] | None:
            others = self._chooser.usable(role, tried.names)
            if not others or not (is_free or hedges.try_spend(self._clock())):
                return None
            other = self._chooser.choose(role, spec, fields, request, others)
            tried.add(other.name)
            return self._call_second(role, other, fields, request, tried.count)

        def doubt() -> None:
            race.start(lambda: second(is_free=True))

        hedges = self._hedges.of(role)
        race: Race[Answered] = Race(second)
        edges = [self._reach.edge(role, e.address) for e in usable]
        after_s = hedge_after_s(edges, attempts.HEDGE_S_MIN)
        if after_s is not None and tried.count == 1 and not custom.is_streaming(spec.kind):
            hedges.earn()
            race.start_after(after_s)
        first = self._reach.call(role, endpoint, fields, request, tried.count)
        with self.doubts.watch(endpoint, doubt):
            return await race.run(first)

    async def _call_second(
        self, role: str, endpoint: Endpoint, fields: Fields, request: Request, attempt: int
    ) -> Answered:
        """Call a node that was chosen a turn ago: a doubt lets many choose one in one turn."""
        if not self._reach.edge(role, endpoint.address).breaker.allows(self._clock()):
            raise BreakerOpen(f"another call tries node {endpoint.name!r}", role=role)
        return await self._reach.call(role, endpoint, fields, request, attempt)

    async def _next(
        self,
        parts: AsyncGenerator[Piece | Answered, None],
        role: str,
        endpoint: Endpoint,
        tried: Collection[str],
        has_begun: bool,
    ) -> Piece | Answered:
        """Return the next part of a stream, or give its node up when that is in doubt."""
        interruption = Interruption()

        def leave() -> None:
            if self._chooser.usable(role, tried):
                interruption.fire()

        watch = self.doubts.watch_late if has_begun else self.doubts.watch
        with watch(endpoint, leave), interruption:
            return await anext(parts)
        raise PeerTimeout(
            f"node {endpoint.name!r} fell silent {'in' if has_begun else 'before'} its answer",
            node=endpoint.name,
            role=role,
        )

"""Watches production code from outside while it runs in simulated processes.

Shell. Wraps the few methods that every call passes: of `Reach`, `Router`, `Breaker`,
`BatchFormer`, `Admission` and `Doubts`. Each wrapper calls the original and tells a law what it
saw; none knows what a budget or a breaker has decided, so they cannot share its mistake.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from mesh.errors import CapacityError, MeshError, PeerError
from mesh.flow.admission import Admission
from mesh.flow.doubt import Doubts
from mesh.flow.reach import Reach
from mesh.flow.router import Router
from mesh.gossip.member import Status
from mesh.policy.attempts import ATTEMPTS_MAX
from mesh.policy.batch import BatchFormer
from mesh.policy.breaker import (
    FAILURES_MAX,
    JITTER_SHARE,
    OPEN_S,
    OPEN_S_MAX,
    SUCCESSES_MIN,
    Breaker,
)
from mesh.policy.budget import (
    HEDGE_FLOOR_PER_S,
    HEDGE_SHARE,
    RETRY_FLOOR_PER_S,
    RETRY_SHARE,
    TOKENS_MAX,
)
from mesh.wire.messages import Piece
from tests.sim.whole.loops import HostLoop

if TYPE_CHECKING:
    from tests.sim.whole.process import Process
    from tests.sim.whole.town import Town

WINDOW_S = 10.0  # in which budgets are counted
BUDGETS = {  # kind of call: share of the calls, floor per second
    "hedge": (HEDGE_SHARE, HEDGE_FLOOR_PER_S),
    "retry": (RETRY_SHARE, RETRY_FLOOR_PER_S),
}
JUST_S = 0.005  # a view that changed so lately may still be acted on
BACK_S = 0.1  # … or, by a call that waits a moment before it goes back to a node
CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


def here() -> Process:
    """Return the process whose code runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HostLoop)
    return loop.process  # type: ignore[no-any-return]


@dataclass(eq=False)
class Attempt:
    """One call to one node, as its router sees it."""

    name: str
    address: str
    kind: str = "first"
    is_open: bool = True
    pieces: int = 0
    error: BaseException | None = None


@dataclass
class Switch:
    """What a breaker should do, by its specification."""

    state: str = CLOSED
    failures: int = 0
    successes: int = 0
    until_s: float = 0.0
    since_s: float = 0.0
    under_way: int = 0  # calls that were let through half-open


@dataclass
class Watch:
    """Everything that is known of the calls of one world."""

    world: Town
    attempts: dict[tuple[str, str, str], list[Attempt]] = field(default_factory=dict)
    firsts: dict[tuple[str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))
    extras: dict[tuple[str, str, str], deque[float]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    switches: dict[int, tuple[Breaker, Switch]] = field(default_factory=dict)

    # -- attempts -----------------------------------------------------------------------

    def began(
        self, process: Process, role: str, endpoint: Any, request: Any, number: int
    ) -> Attempt:
        """Note a call that leaves a router, and check whether it may."""
        key = (process.label, request.id, role)
        before = self.attempts.setdefault(key, [])
        if number == 1:
            before.clear()
        attempt = Attempt(endpoint.name, endpoint.address)
        kind = attempt.kind = self._kind(process, before) if before else "first"
        self._check_view(process, role, endpoint, is_first=kind == "first")
        self.world.counts[f"call.{kind}"] += 1
        why = next((str(one.error) for one in reversed(before) if one.error), "")
        text = request.id.removeprefix("id-")
        self.world.tell_tale(process.label, "calls", endpoint.name, role, text, kind, why)
        if kind != "first":
            is_new = role != "spell" or not any(one.pieces for one in before)
            self.world.laws_of_flow.law(is_new, "R4 no retry after the first piece", *key)
            self._check_return(process, role, before, attempt)
        self._spend(process, role, kind)
        before.append(attempt)
        return attempt

    def _kind(self, process: Process, before: list[Attempt]) -> str:
        rival = next((one for one in before if one.is_open), None)
        if rival is not None:
            return "doubt" if rival.address in process.router.doubts.now else "hedge"
        error = before[-1].error
        return "retry" if isinstance(error, CapacityError) else "failover"

    def _check_return(
        self, process: Process, role: str, before: list[Attempt], attempt: Attempt
    ) -> None:
        """A node that was tried is asked again only where all were lost, and not the last."""
        begun = [at for at, one in enumerate(before) if one.pieces]
        recent = before[begun[-1] if begun else 0 :]  # what gave a piece has gone on
        names = {one.name for one in recent}
        if attempt.name not in names:
            return
        law, key = self.world.laws_of_flow.law, (process.label, role, attempt.name)
        last = next(one for one in reversed(recent) if one.kind not in ("hedge", "doubt"))
        law(attempt.kind == "failover", "R5 back only to who was lost", *key, attempt.kind)
        law(isinstance(last.error, PeerError), "R5 back only to who was lost", *key, last.error)
        law(attempt.name != last.name, "R5 not back to who failed last", *key)
        law(len(names) > 1, "R5 back only where several failed", *key)
        law(len(recent) < ATTEMPTS_MAX, "R5 not back without end", *key, len(recent))
        law(role != "charge", "R5 back only to what may run twice", *key)
        if self.world.now_s - process.membership.changed_s > BACK_S:
            left = [name for name in self._fit(process, role) if name not in names]
            law(not left, "R5 back only where nobody is left", *key, left)
        self.world.counts["call.return"] += 1

    def _fit(self, process: Process, role: str) -> list[str]:
        """Return the nodes that serve a role and that nothing is held against."""
        edges = process.router.statistics()["edges"].get(role, {})
        return [
            m.facts.name
            for m in process.membership.members
            if m.status is Status.ALIVE
            and role in m.facts.roles
            and not m.facts.draining
            and edges.get(m.address, {"breaker": "closed"})["breaker"] == "closed"
        ]

    def _check_view(self, process: Process, role: str, endpoint: Any, *, is_first: bool) -> None:
        """A call goes to nobody who is not believed to serve, and to no suspect without need."""
        seat, now_s, law = process.membership, self.world.now_s, self.world.laws_of_flow.law
        if now_s - seat.changed_s < JUST_S:
            return
        able = {
            m.address: m
            for m in seat.members
            if m.status <= Status.SUSPECT and role in m.facts.roles and not m.facts.draining
        }
        law(endpoint.address in able, "L1 asked where it is served", process.label, endpoint)
        doubts = process.router.doubts.now
        is_bad = endpoint.address in doubts or endpoint.suspect
        if not (is_first and is_bad) or endpoint.is_self:
            return
        edges = process.router.statistics()["edges"].get(role, {})
        better = [
            a
            for a, m in able.items()
            if m.status is Status.ALIVE
            and a not in doubts
            and edges.get(a, {"breaker": "closed"})["breaker"] == "closed"
        ]
        law(not better, "L2 around suspects", process.label, role, endpoint.name, better)

    def _spend(self, process: Process, role: str, kind: str) -> None:
        now_s, firsts = self.world.now_s, self.firsts[process.label, role]
        if kind == "first":
            firsts.append(now_s)
        if kind not in BUDGETS:
            return
        extras = self.extras[process.label, role, kind]
        extras.append(now_s)
        for times in (firsts, extras):
            while times and times[0] < now_s - WINDOW_S:
                times.popleft()
        share, floor_per_s = BUDGETS[kind]
        most = TOKENS_MAX + floor_per_s * WINDOW_S + share * len(firsts) + 1.0
        self.world.laws_of_flow.law(
            len(extras) <= most, "R2 no more extra calls than the budget", kind, len(extras), most
        )

    def over(self, process: Process, role: str, request: Any) -> None:
        """Note that a router has its answer, or has given up."""
        left = [
            one for one in self.attempts.pop((process.label, request.id, role), ()) if one.is_open
        ]
        if not process.is_dead:
            self.world.laws_of_flow.law(not left, "R6 the loser is let go", role, request.id)

    # -- breakers -----------------------------------------------------------------------

    def _switch(self, breaker: Breaker) -> Switch:
        return self.switches.setdefault(id(breaker), (breaker, Switch()))[1]

    def sent(self, breaker: Breaker, now_s: float) -> None:
        """Check that a call may pass a breaker now."""
        switch, law = self._switch(breaker), self.world.laws_of_flow.law
        if switch.state == OPEN:
            is_due = now_s >= switch.until_s - 1e-6
            law(is_due, "B1 an open breaker lets nothing pass", switch.until_s - now_s)
            switch.state, switch.successes, switch.under_way = HALF_OPEN, 0, 0
            self.world.counts["breaker.half-open"] += 1
        if switch.state == HALF_OPEN:
            law(switch.under_way == 0, "B2 a half-open one lets one pass", switch.under_way)
            switch.under_way += 1

    def refused(self, breaker: Breaker, now_s: float) -> None:
        """Check that a breaker has a reason to let nothing pass."""
        switch, law = self._switch(breaker), self.world.laws_of_flow.law
        law(switch.state != CLOSED, "B3 a closed breaker lets all pass", switch)
        is_tried = switch.state != HALF_OPEN or switch.under_way > 0
        law(is_tried, "B3 a half-open one lets one pass", switch)
        is_late = switch.state == OPEN and now_s > switch.since_s + OPEN_S_MAX * (1 + JITTER_SHARE)
        law(not is_late, "B3 an open one opens again", switch)

    def failed(self, breaker: Breaker, now_s: float) -> None:
        """Note a failure."""
        switch = self._switch(breaker)
        switch.failures += 1
        is_over = switch.state == CLOSED and switch.failures >= FAILURES_MAX
        if is_over or switch.state == HALF_OPEN:
            switch.state, switch.since_s = OPEN, now_s
            switch.until_s = now_s + OPEN_S * (1.0 - JITTER_SHARE)
            self.world.counts["breaker.open"] += 1
            self.world.tell_tale(here().label, "breaker opens")

    def succeeded(self, breaker: Breaker) -> None:
        """Note a success."""
        switch = self._switch(breaker)
        switch.failures = 0
        if switch.state == HALF_OPEN:
            switch.under_way = max(0, switch.under_way - 1)
            switch.successes += 1
            if switch.successes >= SUCCESSES_MIN:
                switch.state = CLOSED
                self.world.counts["breaker.closed"] += 1

    def first_piece(self, breaker: Breaker) -> None:
        """Note that a stream has begun: as good as an answer to whoever tries a node."""
        if self._switch(breaker).state == HALF_OPEN:
            self.succeeded(breaker)
            self.world.counts["breaker.piece"] += 1

    def ended(self, breaker: Breaker) -> None:
        """Note the good end of a stream that has begun."""
        self._switch(breaker).failures = 0

    def abandoned(self, breaker: Breaker) -> None:
        """Note a call that says nothing."""
        switch = self._switch(breaker)
        switch.under_way = max(0, switch.under_way - 1)


def watched(stack: ExitStack) -> None:
    """Wrap what every call passes."""

    def wrap(kind: type, name: str, made: Callable[[Any], Any]) -> None:
        stack.enter_context(patch.object(kind, name, made(getattr(kind, name))))

    wrap(Reach, "call", _reach_call)
    wrap(Reach, "stream", _reach_stream)
    wrap(Router, "call", _router_call)
    wrap(Breaker, "allows", _allows)
    wrap(Breaker, "sent", _breaker("sent"))
    wrap(Breaker, "failed", _breaker("failed"))
    wrap(Breaker, "succeeded", _breaker("succeeded"))
    wrap(Breaker, "ended", _breaker("ended"))
    wrap(Breaker, "abandoned", _breaker("abandoned"))
    wrap(BatchFormer, "submit", _submit)
    wrap(Admission, "__enter__", _enter)
    wrap(Doubts, "raise_at", _raise_at)


def _reach_call(original: Any) -> Any:
    async def call(
        reach: Reach, role: str, endpoint: Any, fields: Any, request: Any, *rest: Any
    ) -> Any:
        process = here()
        attempt = process.world.watch.began(process, role, endpoint, request, *rest[:1] or (1,))
        try:
            return await original(reach, role, endpoint, fields, request, *rest)
        except BaseException as error:
            attempt.error = error
            _count(process, error)
            raise
        finally:
            attempt.is_open = False

    return call


def _reach_stream(original: Any) -> Any:
    async def stream(
        reach: Reach, role: str, endpoint: Any, fields: Any, request: Any, *rest: Any
    ) -> AsyncGenerator[Any, None]:
        process = here()
        attempt = process.world.watch.began(process, role, endpoint, request, *rest[:1] or (1,))
        try:
            parts = original(reach, role, endpoint, fields, request, *rest)
            async with aclosing(parts):
                async for part in parts:
                    attempt.pieces += 1
                    if attempt.pieces == 1 and isinstance(part, Piece):
                        breaker = reach.edge(role, endpoint.address).breaker
                        process.world.watch.first_piece(breaker)
                    yield part
        except BaseException as error:
            attempt.error = error
            _count(process, error)
            raise
        finally:
            attempt.is_open = False

    return stream


def _count(process: Process, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        process.world.counts["call.given up"] += 1
    if isinstance(error, PeerError | MeshError) and not process.is_dead:
        process.world.counts[f"met.{error.code}"] += 1


def _router_call(original: Any) -> Any:
    async def call(router: Router, role: str, fields: Any, request: Any) -> Any:
        process = here()
        try:
            return await original(router, role, fields, request)
        finally:
            process.world.watch.over(process, role, request)

    return call


def _breaker(name: str) -> Any:
    def made(original: Any) -> Any:
        def noted(breaker: Breaker, *args: Any) -> Any:
            process = here()
            if not process.is_dead:
                getattr(process.world.watch, name)(breaker, *args[:1])
            return original(breaker, *args)

        return noted

    return made


def _allows(original: Any) -> Any:
    def allows(breaker: Breaker, now_s: float) -> bool:
        is_allowed: bool = original(breaker, now_s)
        process = here()
        if not is_allowed and not process.is_dead:
            process.world.watch.refused(breaker, now_s)
        return is_allowed

    return allows


def _submit(original: Any) -> Any:
    def submit(former: BatchFormer[Any], *args: Any, **named: Any) -> Any:
        world = here().world
        try:
            return original(former, *args, **named)
        except MeshError as error:
            world.counts[f"queue.{error.code}"] += 1
            raise
        finally:
            fits = len(former) <= world.limits.queue_max
            world.laws_of_flow.law(fits, "R7 no queue is longer than its bound", len(former))

    return submit


def _enter(original: Any) -> Any:
    def enter(admission: Admission) -> None:
        original(admission)
        world = here().world
        fits = admission.active <= world.limits.requests_max
        world.laws_of_flow.law(fits, "R7 no door is fuller than its bound", admission.active)

    return enter


def _raise_at(original: Any) -> Any:
    def raise_at(doubts: Doubts, addresses: Any) -> None:
        before = doubts.now
        original(doubts, addresses)
        if doubts.now != before:
            process = here()
            process.world.counts["doubts changed"] += 1
            process.world.laws_of_flow.unrest()

    return raise_at

"""Seeded bugs of the request layer, which the campaign must catch.

A suite that has never failed proves nothing. Each mutant replaces one function of production
code by one that is wrong as somebody's has been, or as this one nearly was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from mesh.errors import PeerError
from mesh.flow import choose, directory, once, reach
from mesh.flow.batcher import Batcher
from mesh.flow.doubt import Doubts
from mesh.flow.local import LocalRoles
from mesh.flow.race import Race
from mesh.flow.serving import Serving
from mesh.flow.single import SingleFlight
from mesh.flow.takeover import Takeover
from mesh.gossip.member import Status
from mesh.net.calls import Calls
from mesh.policy import attempts
from mesh.policy.breaker import FAILURES_MAX, Breaker
from mesh.policy.budget import Budget
from mesh.policy.edge import Edge
from mesh.policy.queue import Queue
from mesh.ring.ring import Ring
from tests.sim.whole.watch import here

Trap = Callable[[], AbstractContextManager[object]]


def _instead(where: Any, name: str, what: Any) -> Trap:
    """Return what puts `what` in the place of a production function."""
    return lambda: patch.object(where, name, what)


def _wrapped(where: Any, name: str, made: Callable[[Any], Any]) -> Trap:
    """Return what wraps a production function."""
    return lambda: patch.object(where, name, made(getattr(where, name)))


# -- going on ---------------------------------------------------------------------------


def _forgets_the_pieces(original: Any) -> Any:
    def may_retry(error: Any, **told: Any) -> bool:
        return original(error, **{**told, "has_streamed": False})  # type: ignore[no-any-return]

    return may_retry


def _repeats_effects(original: Any) -> Any:
    def may_retry(error: Any, **told: Any) -> bool:
        return original(error, **{**told, "is_idempotent": True})  # type: ignore[no-any-return]

    return may_retry


def _gives_up_at_once(error: Any, **_: Any) -> bool:
    return False


def _forgives_the_last(tried: attempts.Tried, name: str) -> None:
    tried.names = [one for one in tried.names if one != name]


def _returns_at_any_time(original: Any) -> Any:
    def usable(chooser: Any, role: str, tried: Any) -> Any:
        return original(chooser, role, tried[-1:])

    return usable


def _spends_freely(original: Any) -> Any:
    def try_spend(budget: Budget, now_s: float) -> bool:
        original(budget, now_s)
        return True

    return try_spend


def _lets_the_loser_go_on(original: Any) -> Any:
    async def run(race: Any, first: Any) -> Any:
        try:
            return await race._run(first)
        finally:
            race._make_second = None
            if race._timer is not None:
                race._timer.cancel()

    return run


# -- choosing ---------------------------------------------------------------------------


def _calls_the_leaving(members: Any) -> Any:
    live = (m for m in members if m.status not in (Status.DEAD, Status.LEFT))
    newest = {m.facts.name: m for m in sorted(live, key=lambda m: m.boot)}
    return tuple(newest[name] for name in sorted(newest))


def _calls_the_dead(original: Any) -> Any:
    def live(members: Any) -> Any:
        return tuple({m.facts.name: m for m in members if not m.facts.draining}.values())

    return live


def _trusts_suspects(original: Any) -> Any:
    def usable(chooser: Any, role: str, tried: Any) -> Any:
        left = [e for e in chooser._directory.endpoints(role) if e.name not in tried]
        return [left[at] for at in choose.fit([chooser._reach.edge(role, e.address) for e in left],
                                              chooser._clock())]  # fmt: skip

    return usable


def _never_doubts(doubts: Doubts, addresses: Any) -> None:
    doubts.now = frozenset(addresses)


def _opens_at_once(original: Any) -> Any:
    def failed(breaker: Breaker, *rest: Any) -> None:
        breaker._failures += FAILURES_MAX
        original(breaker, *rest)

    return failed


def _never_opens(breaker: Breaker, *_: Any) -> None:
    breaker._failures = 0


def _lets_a_crowd_pass(original: Any) -> Any:
    def allows(breaker: Breaker, now_s: float) -> bool:
        return True

    return allows


def _counts_no_pieces(breaker: Breaker) -> None:
    pass


def _counts_streams_twice(original: Any) -> Any:
    succeeded = Breaker.succeeded  # as it is before it is watched

    def ended(breaker: Breaker) -> None:
        original(breaker)
        succeeded(breaker)

    return ended


def _turns_the_ring(original: Any) -> Any:
    def owners(ring: Ring, key: Any, count: int = 1) -> Any:
        found = original(ring, key, len(ring))
        turn = len(here().name) and ord(here().name[0]) % max(1, len(found))
        return (found[turn:] + found[:turn])[:count]

    return owners


# -- once -------------------------------------------------------------------------------


def _forgets_answers(once_: Any, key: bytes, name: str, inputs: Any, request: Any) -> Any:
    return once_._pipelines.run(name, inputs, request)


async def _joins_nobody(flights: SingleFlight[Any], key: Any, start: Any) -> Any:
    return await start()


def _takes_ids_for_equal(value: Any) -> bytes:
    return b"one"


# -- time and room ----------------------------------------------------------------------


def _gives_more_time(deadline_s: float, now_s: float) -> int:
    return 60_000


def _forgets_deadlines(calls: Calls, now_s: float) -> float:
    return float("inf")


def _queues_without_end(original: Any) -> Any:
    def init(queue: Any, items_max: int, *rest: Any) -> None:
        original(queue, 10**6, *rest)

    return init


def _counts_no_failures(serving: Serving, kind: Any = None, *rest: Any) -> None:
    if kind is None:
        serving.active -= 1
    if not serving.active:
        serving._idle.set()


def _keeps_its_place(original: Any) -> Any:
    def abandoned(edge: Edge, now_s: float, took_s: float) -> None:
        original(edge, now_s, took_s)
        edge.view.in_flight += 1

    return abandoned


def _mixes_answers(original: Any) -> Any:
    def answer(batcher: Batcher, entries: Any, *rest: Any) -> None:
        original(batcher, [*entries][::-1], *rest)

    return answer


# -- change -----------------------------------------------------------------------------


async def _does_not_wait(serving: Serving, within_s: float) -> bool:
    return True


def _announces_early(local: LocalRoles) -> tuple[str, ...]:
    return (*local._served, *local.loading)


def _begins_anew(original: Any) -> Any:
    def stream(reach_: Any, role: str, endpoint: Any, fields: Any, *rest: Any) -> Any:
        return original(reach_, role, endpoint, {**fields, "resume": None}, *rest)

    return stream


def _switches_at_once(takeover: Takeover) -> tuple[str, ...]:
    return ()


@contextmanager
def _call_the_dead() -> Iterator[None]:
    """Who is dead stays where it was: here doubts alone would still keep calls away."""
    live = _calls_the_dead(directory._live)
    with (
        patch.object(directory, "_live", live),
        patch.object(directory.Directory, "doubtful", lambda _: []),
    ):
        yield


@contextmanager
def _lose_connections_quietly() -> Iterator[None]:
    """A connection that ends takes its calls with it, and tells nobody."""

    def fail_all(calls: Calls, error: PeerError) -> None:
        calls._waiting = {}

    with patch.object(Calls, "fail_all", fail_all):
        yield


MUTANTS: dict[str, tuple[int, Trap]] = {  # with a seed that has caught it
    "retries after the first piece": (11, _wrapped(attempts, "may_retry", _forgets_the_pieces)),
    "repeats effects": (20, _wrapped(attempts, "may_retry", _repeats_effects)),
    "gives up at once": (6, _instead(attempts, "may_retry", _gives_up_at_once)),
    "forgives the last": (7, _instead(attempts.Tried, "forgive_but", _forgives_the_last)),
    "returns at any time": (0, _wrapped(choose.Chooser, "usable", _returns_at_any_time)),
    "spends freely": (0, _wrapped(Budget, "try_spend", _spends_freely)),
    "lets the loser go on": (0, _wrapped(Race, "run", _lets_the_loser_go_on)),
    "calls the leaving": (10, _instead(directory, "_live", _calls_the_leaving)),
    "calls the dead": (6, _call_the_dead),
    "trusts suspects": (0, _wrapped(choose.Chooser, "usable", _trusts_suspects)),
    "never doubts": (6, _instead(Doubts, "raise_at", _never_doubts)),
    "lets a crowd pass": (7, _wrapped(Breaker, "allows", _lets_a_crowd_pass)),
    "never opens": (7, _instead(Breaker, "failed", _never_opens)),
    "counts no pieces": (7, _instead(Breaker, "began", _counts_no_pieces)),
    "counts streams twice": (7, _wrapped(Breaker, "ended", _counts_streams_twice)),
    "turns the ring": (0, _wrapped(Ring, "owners", _turns_the_ring)),
    "forgets answers": (0, _instead(once.Once, "_run_first", _forgets_answers)),
    "joins nobody": (0, _instead(SingleFlight, "join", _joins_nobody)),
    "takes all for equal": (0, _instead(once, "content_key", _takes_ids_for_equal)),
    "gives more time": (0, _instead(reach, "left_ms", _gives_more_time)),
    "forgets deadlines": (18, _instead(Calls, "sweep", _forgets_deadlines)),
    "opens at once": (6, _wrapped(Breaker, "failed", _opens_at_once)),
    "queues without end": (0, _wrapped(Queue, "__init__", _queues_without_end)),
    "counts no failures": (0, _instead(Serving, "__exit__", _counts_no_failures)),
    "keeps its place": (0, _wrapped(Edge, "abandoned", _keeps_its_place)),
    "mixes answers": (0, _wrapped(Batcher, "_answer", _mixes_answers)),
    "leaves before it has finished": (13, _instead(Serving, "wait_idle", _does_not_wait)),
    "announces early": (8, _instead(LocalRoles, "ready", property(_announces_early))),
    "begins streams anew": (2, _wrapped(reach.Reach, "stream", _begins_anew)),
    "loses connections quietly": (14, _lose_connections_quietly),
}

"""Campaigns of random meshes under requests: a seed draws the faults, laws watch every call.

    python -m tests.sim.whole.campaign --seeds 1000           a campaign
    python -m tests.sim.whole.campaign --seed 17 --trace      one mesh, told event by event
    python -m tests.sim.whole.campaign --seed 17 --about q31  what happened to one request
    python -m tests.sim.whole.campaign --seed 17 --shrink     the fewest faults and requests that
                                                              still break it, and their tale
    python -m tests.sim.whole.campaign --mutant NAME          seeds until a seeded bug is caught

Two kinds of worlds. In a steady one faults come one after the other, each when the mesh has
settled after the last: there nothing may fail, and nobody waits long. In a wild one they come as
they like: there requests may fail, but each ends in time, once, and leaves nothing behind.
"""

# ruff: noqa: T201 - a program: it prints

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import TypeVar

from mesh.settings.schema import Limits
from tests.sim.campaign import calm_bound_s
from tests.sim.whole.faults import LOOK_S, calm_down, inflict, one_after_the_other
from tests.sim.whole.laws import at_rest
from tests.sim.whole.scripts import FAULTS, ORDERLY, STORM_S, Fault, Script, draw
from tests.sim.whole.town import PIPELINES, Town, played

RARE = {"met.no_owner", "refused doors"}  # a campaign of a few dozen seeds may lack them
SEEDS_ENOUGH = 200  # of a campaign that must have seen everything
QUIET_S = 16.0  # longer than any client waits
MUST_HAPPEN = {  # what a campaign must have seen, so that its silence means something
    *(f"fault.{fault}" for fault in FAULTS),
    *("call.first", "call.hedge", "call.doubt", "call.failover", "call.return", "call.retry"),
    *("breaker.open", "breaker.half-open", "breaker.closed", "breaker.piece"),
    *("ask.done", "ask.gone", "doors changed", "twins agreed", "doubts changed"),
    *("met.connection_lost", "met.unreachable", "call.given up", "queue.overloaded"),
    *("streams resumed", "kept answers", "joined requests", "refused doors", "met.no_owner"),
    *("lost", "duplicated", "suspected", "cleared", "refuted", "died", "left", "stream_only"),
    *("budget refused", "forwarded requests", "worlds.steady", "worlds.wild"),
}
HEADINGS = {"FAULT", "START", "CALM", "BROKEN"}  # of tales that concern every request
TRIES_MAX = 60  # of a shrinking: a minute of faults, a minute of clients
Trap = Callable[[], AbstractContextManager[object]]
Item = TypeVar("Item")


def built(script: Script) -> Town:
    """Return the world of a script, settled, before its first fault."""
    world = Town(
        script.seed,
        list(script.names),
        replicas=script.replicas,
        weather=script.weather,
        limits=Limits(queue_max=script.queue_max, requests_max=script.requests_max),
        pace_s=script.pace_s,
        mix=script.mix,
        unasked=script.unasked,
    )
    world.is_steady = script.is_steady
    world.is_orderly = all(fault.kind in ORDERLY for fault in script.faults)
    return world


def play(script: Script, tale: Callable[[float, str], None] | None = None) -> Town:
    """Run one world; raises AssertionError if a law breaks. Within `played`."""
    world = built(script)
    if tale is not None:
        world.on_tale = tale
    try:
        _play(world, script)
    finally:
        world.close()
    return world


def _play(world: Town, script: Script) -> None:
    world.start_all(spread_s=0.1)
    world.run_until(lambda: world.is_settled, 20.0, LOOK_S)
    world.laws_of_flow.unrest()
    world.crowd.come()
    if script.is_steady:
        one_after_the_other(world, list(script.faults))
    else:
        for fault in script.faults:
            world.later(fault.at_s, lambda fault=fault: inflict(world, fault))  # type: ignore[misc]
    world.run(STORM_S)
    world.crowd.is_closed = True
    world.run(QUIET_S)
    calm_down(world, script.weather)
    bound_s = calm_bound_s(len(script.names), world.rules) + 40.0
    world.run_until(lambda: world.is_settled, bound_s, LOOK_S)
    _ask_everywhere(world)
    _count(world)
    at_rest(world)
    if world.laws_of_flow.broken:
        raise world.laws_of_flow.broken[0]


def _ask_everywhere(world: Town) -> None:
    """After the storm every door answers everything."""
    world.run(32.0)  # a breaker that has opened often is open for half a minute
    asks = [world.crowd.ask(line, door) for door in world.hosts for line in PIPELINES]
    world.run(12.0)
    for ask in asks:
        world.laws_of_flow.law(ask.outcome == "done", "A4 all is well after the storm", ask)


def _count(world: Town) -> None:
    """Add what the processes that still run have counted."""
    for process in world.processes.values():
        once, router = process.once.statistics(), process.router.statistics()
        world.counts["streams resumed"] += router["resumed"]
        world.counts["budget refused"] += router["budget_refused"]
        world.counts["kept answers"] += once.get("hits", 0)
        world.counts["joined requests"] += once["joined"]
        world.counts["forwarded requests"] += once["forwarded"]
        world.counts["refused doors"] += process.admission.statistics()["refused_requests"]


def verdict(script: Script) -> str | None:
    """Return what broke, or None. Within `played`."""
    try:
        play(script)
    except AssertionError as broken:
        return str(broken) or repr(broken)
    return None


def shrink(script: Script) -> Script:
    """Return the script without the faults, then the clients, that the failure does not need."""

    def with_faults(faults: list[Fault]) -> Script:
        return replace(script, faults=tuple(faults))

    script = with_faults(_fewest(list(script.faults), lambda few: verdict(with_faults(few))))
    everyone = range(_asked(script))

    def with_clients(clients: list[int]) -> Script:
        return replace(script, unasked=frozenset(everyone).difference(clients))

    return with_clients(_fewest(list(everyone), lambda few: verdict(with_clients(few))))


def _fewest(items: list[Item], breaks: Callable[[list[Item]], object]) -> list[Item]:
    """Return what is left when parts are left out while it still breaks: halves first."""
    size, tries = max(1, len(items) // 2), 0
    while True:
        at = 0
        while at < len(items) and tries < TRIES_MAX:
            fewer, tries = items[:at] + items[at + size :], tries + 1
            if breaks(fewer):
                items = fewer
            else:
                at += size
        if size == 1 or tries == TRIES_MAX:
            return items
        size //= 2


def _asked(script: Script) -> int:
    """Return how many clients come until the world breaks."""
    world = built(script)
    with suppress(AssertionError):
        try:
            _play(world, script)
        finally:
            world.close()
    return len(world.crowd.asks)


def run_campaign(
    seeds: Iterable[int],
    failed: Callable[[Script, str], None] | None = None,
    *,
    is_first_enough: bool = False,
) -> tuple[Counter[str], list[int]]:
    """Play every seed; return what was seen, and the seeds that broke a law. Within `played`."""
    seen: Counter[str] = Counter()
    broken = []
    for seed in seeds:
        script = draw(seed)
        try:
            world = play(script)
        except AssertionError as error:
            broken.append(seed)
            if failed:
                failed(script, str(error) or repr(error))
            if is_first_enough:
                break
            continue
        seen.update(world.counts)
        seen.update({f"law {name}": count for name, count in world.laws_of_flow.checked.items()})
        seen["virtual s"] += int(world.now_s)
        seen["worlds.steady" if script.is_steady else "worlds.wild"] += 1
    return seen, broken


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=500, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="tell everything that happens")
    parser.add_argument("--about", default="", help="tell of one request, and of faults")
    parser.add_argument("--shrink", action="store_true", help="leave out what it breaks without")
    parser.add_argument("--mutant", default="", help="with this seeded bug, until it is caught")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)  # thousands of nodes die here
    with _trap(asked.mutant), played():
        if asked.seed is not None:
            is_told = asked.trace or asked.shrink or bool(asked.about)
            return _one(asked.seed, asked.about, is_told=is_told, is_shrunk=asked.shrink)
        return _many(range(asked.first, asked.first + asked.seeds), is_mutant=bool(asked.mutant))


def _trap(name: str) -> AbstractContextManager[object]:
    if not name:
        return nullcontext()
    from tests.sim.whole.mutants import MUTANTS  # it imports this module

    return MUTANTS[name][1]()


def _one(seed: int, about: str, *, is_told: bool, is_shrunk: bool) -> int:
    script = draw(seed)
    script = shrink(script) if is_shrunk else script
    print(script)

    def told(at_s: float, tale: str) -> None:
        if not about or tale.split()[0] in HEADINGS or f"{about} " in f"{tale} ".replace("|", " "):
            print(f"{at_s:9.3f} {tale}")

    try:
        world = play(script, told if is_told else None)
    except AssertionError as broken:
        print(f"BROKEN {broken}")
        return 1
    print(f"every law holds; slowest of a steady mesh: {world.laws_of_flow.slowest_s:.2f} s")
    return 0


def _many(seeds: range, *, is_mutant: bool) -> int:
    since_s = time.perf_counter()
    seen, broken = run_campaign(
        seeds,
        lambda script, why: print(f"{script}\n  {why}\n", flush=True),
        is_first_enough=is_mutant,
    )
    took_s = time.perf_counter() - since_s
    print(f"{len(seeds)} worlds, {seen['events']} events in {took_s:.1f} s; broken: {broken}")
    for name in sorted(seen):
        print(f"  {name:<24} {seen[name]}")
    missed = sorted(MUST_HAPPEN - set(+seen))
    print(f"  never seen: {missed}")
    return 1 if broken or (missed and len(seeds) >= SEEDS_ENOUGH) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Strains a mesh without breaking it: too much load, a slow replica, a burst.

Shell. Each strain returns what it measured beside what must hold.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tools.chaos.record import Asked
from tools.chaos.roles import SLOW
from tools.chaos.scene import Scene

PIPELINE = """
[roles.{name}]
kind = "tools.chaos.roles:Work"
work_ms = {work_ms}
batch = {{ items_max = {items_max} }}
{place}
[pipelines.{name}]
input = ["id"]
output = ["id", "by"]
[[pipelines.{name}.stages]]
name = "work"
role = "{name}"
take = {{ id = "id" }}
give = {{ by = "by" }}
"""
HINT_S_MAX = 10.0  # a queue of seconds is no reason to stay away for longer
REFUSED = ("overloaded", "no_capacity", "attempts_spent", "breaker_open", "capacity_error")


@dataclass(frozen=True, slots=True)
class Finding:
    """One measured thing."""

    what: str
    found: float
    limit: float
    is_floor: bool = False  # at least the limit; else at most

    @property
    def holds(self) -> bool:
        """Whether it is as it must be."""
        return self.found >= self.limit if self.is_floor else self.found <= self.limit


async def overload(scene: Scene) -> list[Finding]:
    """Ask for three times what two replicas can do, with deadlines of a second."""
    place = 'nodes = ["n1", "n2"]'
    more = PIPELINE.format(name="busy", work_ms=20.0, items_max=1, place=place)
    await scene.change(more, {"n1": {"busy"}, "n2": {"busy"}})
    ask = {"pipeline": "busy", "deadline_s": 1.0, "is_named": False}
    await scene.ask(2.0, 60.0, **ask)  # type: ignore[arg-type]
    calm = await scene.ask(4.0, 60.0, **ask)  # type: ignore[arg-type]
    peak = await scene.ask(5.0, 110.0, **ask)  # type: ignore[arg-type]
    flood = await scene.ask(8.0, 300.0, **ask)  # type: ignore[arg-type]
    ended_s = time.monotonic()
    normal_s = await _until_normal(scene, ask, _at(_took(calm), 0.99))
    good = [one for one in flood if one.is_good]
    refused = [one for one in flood if one.error.startswith(REFUSED)]
    other = [one for one in flood if one not in good and one not in refused]
    return [
        Finding("overload: goodput, share of the peak", _rate(flood) / _rate(peak), 0.9, True),
        Finding("overload: p99 of the admitted, ms", _at(_took(good), 0.99) * 1000.0, 1000.0),
        Finding("overload: p99 of a refusal, ms", _at(_took(refused), 0.99) * 1000.0, 50.0),
        Finding("overload: refused without Retry-After", _without_hint(refused), 0.0),
        Finding("overload: longest Retry-After, s", _longest_hint(refused), HINT_S_MAX),
        Finding("overload: neither answered nor refused", len(other), 0.0),
        Finding("overload: back to normal after, s", normal_s - ended_s, 10.0),
    ]


async def slow_replica(scene: Scene) -> list[Finding]:
    """Add 500 ms to every batch of one of two replicas, with much room and with less."""
    roomy = await _slowed(scene, "pair", items_max=32, rate=40.0)
    # One after another takes 10 ms: two replicas can do 200 per second, this is 30 % of it.
    return roomy + await _slowed(scene, "pair", items_max=1, rate=60.0, note=" at 30 % load")


async def _slowed(
    scene: Scene, name: str, *, items_max: int, rate: float, note: str = ""
) -> list[Finding]:
    place = 'nodes = ["n1", "n2"]'
    more = PIPELINE.format(name=name, work_ms=10.0, items_max=items_max, place=place)
    await scene.change(more, {"n1": {name}, "n2": {name}})
    await scene.ask(3.0, rate, name)
    calm = await scene.ask(6.0, rate, name)
    slow = scene.hosts[1].data / SLOW
    slow.write_text("500")
    try:
        bad = await scene.ask(12.0, rate, name)
    finally:
        slow.unlink()
    ids = {one.id for one in bad}
    runs = sum(run in ids for host in scene.hosts for run in host.runs())
    what = f"slow replica{note}"
    return [
        Finding(f"{what}: failed", sum(not one.is_good for one in bad), 0.0),
        Finding(f"{what}: p99 against the healthy", _share(bad, calm), 1.3),
        Finding(f"{what}: work done twice, share", runs / len(bad) - 1.0, 0.05),
    ]


async def burst(scene: Scene) -> list[Finding]:
    """Let a burst make a role grow to its maximum, and quiet make it shrink."""
    place = "replicas = { min = 1, max = 3, idle_s = 3.0 }"
    more = PIPELINE.format(name="flex", work_ms=40.0, items_max=1, place=place)
    scene.change_topology(scene.hosts[0], more=more)
    await _wait_serving(scene, lambda count: count >= 1, 20.0)
    calm = await scene.ask(2.0, 4.0, "flex")
    flood = asyncio.create_task(scene.ask(14.0, 48.0, "flex"))
    grown_s = await _wait_serving(scene, lambda count: count == 3, 14.0)
    asked = calm + await flood
    quiet = asyncio.create_task(scene.ask(25.0, 2.0, "flex"))
    shrunk_s = await _wait_serving(scene, lambda count: count == 1, 30.0)
    asked += await quiet
    await scene.change()
    return [
        Finding("burst: failed", sum(not one.is_good for one in asked), 0.0),
        Finding("burst: grown to three after, s", grown_s, 12.0),
        Finding("burst: shrunk to one after, s", shrunk_s, 25.0),
    ]


async def placed(scene: Scene) -> list[Finding]:
    """Kill one of the two nodes that the ring chose for a role: a third takes its place."""
    place = "replicas = 2"
    more = PIPELINE.format(name="flex", work_ms=10.0, items_max=8, place=place)
    scene.change_topology(scene.hosts[0], more=more)
    await _wait_serving(scene, lambda count: count == 2, 20.0)
    owners = await scene.owners("flex")
    victim = next(host for host in scene.hosts[1:] if host.name in owners)
    asking = asyncio.create_task(scene.ask(14.0, 30.0, "flex"))
    await asyncio.sleep(2.0)
    await victim.end(signal.SIGKILL)
    began_s = time.monotonic()
    while time.monotonic() < began_s + 12.0:
        now = await scene.owners("flex")
        if len(now) == 2 and victim.name not in now:
            break
        await asyncio.sleep(0.1)
    moved_s = time.monotonic() - began_s
    asked = await asking
    await victim.start()
    await scene.change()
    return [
        Finding("ring-given role: failed", sum(not one.is_good for one in asked), 0.0),
        Finding("ring-given role: two replicas again after, s", moved_s, 10.0),
    ]


STRAINS: dict[str, Callable[[Scene], Awaitable[list[Finding]]]] = {
    "overload": overload,
    "slow replica": slow_replica,
    "burst": burst,
    "ring-given role": placed,
}


async def _until_normal(scene: Scene, ask: dict[str, object], p99_s: float) -> float:
    """Return when a second of requests was as in calm; 30 s on if it never is."""
    for _ in range(15):
        began_s = time.monotonic()
        asked = await scene.ask(1.0, 60.0, **ask)  # type: ignore[arg-type]
        took_s = _at(_took(asked), 0.95)
        if all(one.is_good for one in asked) and took_s <= p99_s * 1.5 + 0.02:
            return began_s
    return time.monotonic() + 15.0


async def _wait_serving(scene: Scene, is_true: Callable[[int], bool], within_s: float) -> float:
    """Wait until so many nodes serve the elastic role; return how long, or twice the limit."""
    began_s = time.monotonic()
    while time.monotonic() < began_s + within_s:
        if is_true(len(await scene.owners("flex"))):
            return time.monotonic() - began_s
        await asyncio.sleep(0.1)
    return 2.0 * within_s


def _without_hint(refused: Sequence[Asked]) -> int:
    return sum(not one.retry_after_s for one in refused)


def _longest_hint(refused: Sequence[Asked]) -> float:
    return max((one.retry_after_s or 0.0 for one in refused), default=0.0)


def _took(asked: Sequence[Asked]) -> list[float]:
    return sorted(one.took_s for one in asked)


def _rate(asked: Sequence[Asked]) -> float:
    """Return good answers per second of the time in which was asked."""
    span_s = max(one.began_s for one in asked) - min(one.began_s for one in asked)
    return sum(one.is_good for one in asked) / span_s


def _share(bad: Sequence[Asked], calm: Sequence[Asked]) -> float:
    return _at(_took(bad), 0.99) / _at(_took(calm), 0.99)


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))] if ordered else 0.0

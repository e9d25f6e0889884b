"""Watches a mesh to which nothing is done while it works: who is suspected, how late loops wake.

Shell. The nodes of the run compute on a lane each; the demo's own three answer questions
with their models. Nobody may be suspected, and each loop must keep time.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from mesh.client import Client
from mesh.errors import MeshError
from tools import fleet
from tools.chaos.scene import Scene
from tools.chaos.strain import Finding
from tools.demo import QUESTIONS

Result = TypeVar("Result")

LAG_P99_MS_MAX = 20.0
LOOK_S = 15.0  # /stats keeps the lag of the last minute
WINDOW_S = 60.0
DOUBTS = ("suspicions", "deaths")
CLIENTS = 4  # each asks the demo one question after another
CONFIGS = ("n0", "n1", "n2")

CRUNCH = """
[roles.crunch]
kind = "tools.chaos.roles:Crunch"
nodes = [{nodes}]
[pipelines.crunch]
input = ["id"]
output = ["id", "by"]
[[pipelines.crunch.stages]]
name = "crunch"
role = "crunch"
take = { id = "id" }
give = { by = "by" }
"""


@dataclass
class Seen:
    """What was seen of some nodes while they worked."""

    doubts: int = 0  # suspicions and verdicts, all nodes together
    p99_ms: dict[str, float] = field(default_factory=dict)  # the worst minute of each
    max_ms: float = 0.0


async def crunch(scene: Scene) -> list[Finding]:
    """Let every node compute, gossip and be a door for a while."""
    everywhere = {host.name: {"crunch"} for host in scene.hosts}
    names = ", ".join(f'"{name}"' for name in everywhere)
    await scene.change(CRUNCH.replace("{nodes}", names), everywhere)
    urls = {host.name: host.url for host in scene.hosts}
    asking = scene.ask(60.0 * scene.minutes, scene.calls_s, "crunch")
    asked, seen = await watched(urls, asking, LOOK_S)
    await scene.change()
    failed = sum(not one.is_good for one in asked)
    return _findings("computing", len(asked), failed, seen)


async def demo(scene: Scene) -> list[Finding]:
    """Let the demo's own nodes answer questions, several at once, for a while."""
    with tempfile.TemporaryDirectory(prefix="mesh-demo-") as folder:
        configs = [fleet.PROJECT / "config" / f"{name}.toml" for name in CONFIGS]
        nodes, _ = fleet.nodes_of(configs, Path(folder))
        fleet.move(nodes, Path(folder))
        async with fleet.running(nodes):
            try:
                await fleet.wait_ready(nodes)
            except fleet.NodeDied as death:
                print(f"the demo is not run: {str(death).splitlines()[-1]}")
                return []
            urls = {node.name: node.url for node in nodes}
            await _question(list(urls.values()), WINDOW_S / 2)  # warm, and starts' lag forgotten
            seconds = max(WINDOW_S, 60.0 * scene.minutes)
            (asked, failed), seen = await watched(
                urls, _question(list(urls.values()), seconds), LOOK_S, WINDOW_S
            )
    return _findings("the demo", asked, failed, seen)


async def watched(
    urls: Mapping[str, str],
    work: Coroutine[Any, Any, Result],
    look_s: float,
    after_s: float = 0.0,
) -> tuple[Result, Seen]:
    """Do some work, and return its result beside what was seen meanwhile.

    Args:
        urls: of the nodes, by name.
        work: what they are asked to do.
        look_s: how often they are looked at.
        after_s: when the lag counts: before, what happened earlier is still in it.
    """
    seen = Seen()
    timeout = aiohttp.ClientTimeout(total=10.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        before = await _doubts(session, urls)
        began_s = time.monotonic()
        task = asyncio.create_task(work)
        while not task.done():
            await asyncio.wait([task], timeout=look_s)
            if task.done() or time.monotonic() >= began_s + after_s:
                await _look(session, urls, seen)
        seen.doubts = await _doubts(session, urls) - before
    return await task, seen


async def _doubts(session: aiohttp.ClientSession, urls: Mapping[str, str]) -> int:
    gossip = [(await _stats(session, url))["gossip"] for url in urls.values()]
    return sum(int(one.get(name, 0)) for one in gossip for name in DOUBTS)


async def _look(session: aiohttp.ClientSession, urls: Mapping[str, str], seen: Seen) -> None:
    for name, url in urls.items():
        lag_ms = (await _stats(session, url))["process"]["loop_lag_ms"]
        seen.p99_ms[name] = max(seen.p99_ms.get(name, 0.0), lag_ms["p99"])
        seen.max_ms = max(seen.max_ms, lag_ms["max"])


async def _stats(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(f"{url}/stats") as response:
        stats: dict[str, Any] = await response.json()
        return stats


async def _question(urls: Sequence[str], seconds: float) -> tuple[int, int]:
    """Ask the demo's questions for a while; return how many, and how many failed."""
    until_s, counts = time.monotonic() + seconds, [0, 0]

    async def ask(number: int) -> None:
        async with Client([*urls[number % len(urls) :], *urls]) as client:
            while time.monotonic() < until_s:
                counts[0] += 1
                try:
                    await client.ask("ask", query=QUESTIONS[counts[0] % len(QUESTIONS)])
                except MeshError:
                    counts[1] += 1

    await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
    return counts[0], counts[1]


def _findings(what: str, asked: int, failed: int, seen: Seen) -> list[Finding]:
    return [
        Finding(f"{what}: requests", asked, 1.0, True),
        Finding(f"{what}: failed", failed, 0.0),
        Finding(f"{what}: suspicions and dead verdicts", seen.doubts, 0.0),
        *(
            Finding(f"{what}: loop lag of {name}, p99 ms", p99_ms, LAG_P99_MS_MAX)
            for name, p99_ms in sorted(seen.p99_ms.items())
        ),
    ]


CALMS: dict[str, Callable[[Scene], Awaitable[list[Finding]]]] = {
    "computing": crunch,
    "demo": demo,
}

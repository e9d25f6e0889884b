"""One mesh under one load, to which one thing is done: the frame of every fault.

Shell: keeps the mesh whole between faults, so that no fault inherits another's damage.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tools.chaos.fabric import Fabric, drop_disk
from tools.chaos.hosts import Host, make_hosts, wait_whole
from tools.chaos.load import Load
from tools.chaos.record import Asked, Row, row_of

CALM_S = 2.0  # before the fault: what is normal here
AFTER_S = 2.0  # after it: whether it is normal again

TOPOLOGY = """
[mesh]
name = "chaos"
epoch = {epoch}
[roles.work]
kind = "tools.chaos.roles:Work"
nodes = ["n1", "n2"]
work_ms = 10.0
tag = "{tag}"
[roles.tell]
kind = "tools.chaos.roles:Tell"
nodes = ["n1", "n2"]
{more}
[pipelines.work]
input = ["id"]
output = ["id", "by"]
[[pipelines.work.stages]]
name = "work"
role = "work"
take = {{ id = "id" }}
give = {{ by = "by" }}
[pipelines.tell]
input = ["id", "count"]
output = ["told", "pieces"]
[[pipelines.tell.stages]]
name = "tell"
role = "tell"
take = {{ id = "id", count = "count" }}
give = {{ told = "told", pieces = "pieces" }}
"""
ROLES = {"work", "tell"}


@dataclass
class Scene:
    """The mesh of a run."""

    hosts: list[Host]
    fabric: Fabric | None
    session: aiohttp.ClientSession
    calls_s: float
    streams_s: float
    epoch: int = 1
    minutes: float = 1.0  # of scenes in which nothing is done
    played: int = 0
    roles: dict[str, set[str]] = field(default_factory=dict)
    more: list[Asked] = field(default_factory=list)

    async def play(
        self, name: str, fault: Callable[[], Awaitable[None]], doors: list[Host] | None = None
    ) -> Row:
        """Ask in calm, do the fault, ask on, and return what became of the requests."""
        await wait_whole(self.hosts, self.session, self.roles, self.epoch)
        before = [len(host.runs()) for host in self.hosts]
        self.played += 1
        doors = doors or self.hosts[:1]
        load = Load(
            [host.url for host in doors],
            calls_s=self.calls_s,
            streams_s=self.streams_s,
            prefix=f"{self.played}",
        )
        until = asyncio.Event()
        running = asyncio.create_task(load.run(until))
        try:
            await asyncio.sleep(CALM_S)
            fault_at_s = time.monotonic()
            await fault()
            await asyncio.sleep(AFTER_S)
        finally:
            until.set()
            await running
        runs = [run for host, n in zip(self.hosts, before, strict=True) for run in host.runs()[n:]]
        asked, self.more = load.asked + self.more, []
        return row_of(name, asked, fault_at_s, runs)

    async def ask(self, seconds: float, rate: float, pipeline: str, **options: Any) -> list[Asked]:
        """Ask the door at a rate for a while, and return every request, ended."""
        self.played += 1
        load = Load(
            [self.hosts[0].url],
            calls_s=rate,
            streams_s=0.0,
            prefix=f"{self.played}",
            pipeline=pipeline,
            **options,
        )
        until = asyncio.Event()
        running = asyncio.create_task(load.run(until))
        try:
            await asyncio.sleep(seconds)
        finally:
            until.set()
            await running
        return load.asked

    async def owners(self, role: str) -> list[str]:
        """Return which live nodes say that they serve a role."""
        async with self.session.get(f"{self.hosts[0].url}/v1/roles") as response:
            roles = (await response.json())["roles"]
        return next((one["serving"] for one in roles if one["name"] == role), [])

    async def change(self, more: str = "", roles: dict[str, set[str]] | None = None) -> None:
        """Give the mesh other roles beside its own, and wait until it has them."""
        self.change_topology(self.hosts[0], more=more)
        self.roles = {host.name: set() for host in self.hosts} | {"n1": ROLES, "n2": ROLES}
        for name, own in (roles or {}).items():
            self.roles[name] = self.roles[name] | own
        await self.wait_whole()

    def change_topology(self, host: Host, *, tag: str = "", more: str = "") -> None:
        """Write a newer topology into one node's file."""
        self.epoch += 1
        host.topology.write_text(TOPOLOGY.format(epoch=self.epoch, tag=tag, more=more))

    async def wait_whole(self) -> float:
        """Wait until every node sees every other as it should be; return how long."""
        return await wait_whole(self.hosts, self.session, self.roles, self.epoch)


@contextlib.asynccontextmanager
async def open_scene(
    folder: Path, fabric: Fabric | None, *, count: int, calls_s: float, streams_s: float
) -> AsyncIterator[Scene]:
    """Start a mesh; none of its processes outlives the block."""
    hosts = make_hosts(count, folder, fabric)
    timeout = aiohttp.ClientTimeout(total=2.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        scene = Scene(hosts, fabric, session, calls_s, streams_s)
        scene.roles = {host.name: set() for host in hosts} | {"n1": ROLES, "n2": ROLES}
        try:
            for host in hosts:
                host.topology.write_text(TOPOLOGY.format(epoch=1, tag="", more=""))
                await host.start()
            yield scene
        finally:
            for host in hosts:
                if host.process is not None and host.process.returncode is None:
                    host.process.kill()
                    await host.process.wait()
                drop_disk(host.data)

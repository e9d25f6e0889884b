"""The nodes of a chaos run: processes that are started, killed, stopped and moved.

Shell: each is in a host of the fabric, or on loopback where there is no fabric.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tools.chaos.fabric import Fabric, die_with_parent
from tools.chaos.roles import NOTES
from tools.fleet import PROJECT, free_ports

HTTP_PORT, PEER_PORT = 8000, 7000
READY_S_MAX = 30.0
STOP_S_MAX = 20.0
LOOK_S = 0.05

FILE = """
name = "{name}"
topology = "{topology}"
data = "{data}"
[listen]
http = "{http}"
peer = "{peer}"
[join]
seeds = [{seeds}]
[security]
hosts = ["*"]
[limits]
drain_s = 5
[log]
request_lines_s_max = 0
"""


@dataclass
class Host:
    """One node."""

    number: int
    folder: Path
    http: str
    peer: str
    seeds: str
    enter: Callable[[], None]
    moved: tuple[str, str]
    process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        """As the topology calls it."""
        return f"n{self.number}"

    @property
    def url(self) -> str:
        """Its HTTP door."""
        return f"http://{self.http}"

    @property
    def data(self) -> Path:
        """What it writes."""
        return self.folder / self.name

    @property
    def topology(self) -> Path:
        """Its own copy of the file, as if on a machine of its own."""
        return self.folder / f"{self.name}-topology.toml"

    async def start(self) -> None:
        """Start the process."""
        config = self.folder / f"{self.name}.toml"
        config.write_text(
            FILE.format(
                name=self.name,
                topology=self.topology,
                data=self.data,
                http=self.http,
                peer=self.peer,
                seeds=self.seeds,
            )
        )
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MESH__")}
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mesh", "--config", str(config),
                cwd=PROJECT, env=clean, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=self.enter,
            )  # fmt: skip

    def send(self, number: int) -> None:
        """Send a signal, if there is a process."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def end(self, number: int = signal.SIGTERM) -> None:
        """End the process and wait for that."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def move(self) -> None:
        """Take the other address from the next start on."""
        self.http, self.peer, self.moved = *self.moved, (self.http, self.peer)

    def runs(self) -> list[str]:
        """Return the ids of the items that its roles began with."""
        try:
            return (self.data / NOTES).read_text().split()
        except OSError:
            return []


def make_hosts(count: int, folder: Path, fabric: Fabric | None) -> list[Host]:
    """Return nodes that are not yet started; all know all others' addresses as seeds."""
    ports = iter(free_ports(4 * count))

    def address(number: int, port: int, is_moved: bool) -> str:
        if fabric is None:
            return f"127.0.0.1:{next(ports)}"
        return f"{fabric.address(number, is_moved=is_moved)}:{port}"

    hosts = []
    for number in range(count):
        places = [
            (address(number, HTTP_PORT, moved), address(number, PEER_PORT, moved))
            for moved in (False, True)
        ]
        enter = die_with_parent if fabric is None else fabric.enter(number)
        hosts.append(Host(number, folder, *places[0], "", enter, places[1]))
    for host in hosts:
        host.seeds = ", ".join(f'"{other.peer}"' for other in hosts if other is not host)
    return hosts


async def wait_whole(
    hosts: list[Host], session: aiohttp.ClientSession, roles: dict[str, set[str]], epoch: int
) -> float:
    """Wait until every node is ready and sees all others with these roles; return how long.

    Raises:
        TimeoutError: it takes too long; the text says what is missing.
    """
    began_s = time.monotonic()
    missing = ""
    while time.monotonic() - began_s < READY_S_MAX:
        missing = ""
        for host in hosts:
            missing = missing or await _missing(host, session, roles, epoch)
        if not missing:
            return time.monotonic() - began_s
        await asyncio.sleep(LOOK_S)
    raise TimeoutError(f"the mesh is not whole after {READY_S_MAX:.0f} s: {missing}")


async def _missing(
    host: Host, session: aiohttp.ClientSession, roles: dict[str, set[str]], epoch: int
) -> str:
    try:
        async with session.get(f"{host.url}/readyz") as response:
            if response.status != 200:
                return f"{host.name}: {(await response.json()).get('reason')}"
        async with session.get(f"{host.url}/v1/members") as response:
            members = (await response.json())["members"]
        async with session.get(f"{host.url}/topology") as response:
            found_epoch = (await response.json())["epoch"]
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return f"{host.name}: {type(error).__name__}"
    seen = {one["name"]: set(one["roles"]) for one in members if one["status"] == "alive"}
    if seen != roles:
        return f"{host.name} sees {seen}, expected {roles}"
    return f"{host.name} is at epoch {found_epoch}" if found_epoch != epoch else ""

"""Nodes as real processes, for what only a process can do: die, be told to end, refuse to start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
READY_S = 45.0  # without models it takes two; others may be at work beside it
NODE = """
name = "{name}"
topology = "topology.toml"
data = "var/{name}"
[listen]
http = "127.0.0.1:{http}"
peer = "127.0.0.1:{peer}"
[join]
seeds = [{seeds}]
[gossip]
probe_interval_s = 0.2
probe_timeout_s = 0.1
gossip_interval_s = 0.05
rejoin_interval_s = 0.5
[limits]
drain_s = 5
"""


class Process:
    """One node: its file, and the process while there is one."""

    def __init__(self, folder: Path, name: str, http: int, peer: int, seeds: str) -> None:
        roles = tomllib.loads((folder / "topology.toml").read_text())["roles"]
        self.roles = sorted(role for role, spec in roles.items() if name in spec["nodes"])
        self.name, self.http, self.config = name, http, folder / f"{name}.toml"
        self.config.write_text(NODE.format(name=name, http=http, peer=peer, seeds=seeds))
        self.errors = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    def url(self, path: str) -> str:
        """Return the URL of one of its doors."""
        return f"http://127.0.0.1:{self.http}{path}"

    async def start(self) -> None:
        """Start the process."""
        with self.errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mesh", "--config", str(self.config),
                cwd=ROOT, env=clean_environment(), stderr=errors,
            )  # fmt: skip

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Return the exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """End the process if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def events(self) -> list[str]:
        """Return the names of what it has logged."""
        lines = self.errors.read_text().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]


@asynccontextmanager
async def processes(folder: Path, topology: str, count: int = 3):
    """Give nodes that are not yet started, and an HTTP session; none outlives the block."""
    (folder / "topology.toml").write_text(topology)
    ports = free_ports(2 * count)
    seeds = ", ".join(f'"127.0.0.1:{port}"' for port in ports[count:])
    nodes = [Process(folder, f"n{at}", ports[at], ports[count + at], seeds) for at in range(count)]
    async with aiohttp.ClientSession() as http:
        try:
            yield nodes, http
        finally:
            for node in nodes:
                await node.stop()


async def wait_ready(
    http: aiohttp.ClientSession, nodes: list[Process], within_s: float = READY_S
) -> None:
    """Wait until every node is ready and all see each other."""
    for node in nodes:
        await wait_seen(http, node, nodes, within_s)


async def wait_seen(
    http: aiohttp.ClientSession, node: Process, nodes: list[Process], within_s: float = READY_S
) -> None:
    """Wait until a node is ready and sees exactly these nodes alive, with their roles loaded."""
    expected = {one.name: one.roles for one in nodes}
    async with asyncio.timeout(within_s):
        while await seen(http, node) != expected:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.02)


async def seen(http: aiohttp.ClientSession, node: Process) -> dict[str, list[str]] | None:
    """Return who is alive in a node's eyes with their roles, or None while it is not ready."""
    if await _get(http, node.url("/readyz")) is None:
        return None
    members = (await _get(http, node.url("/v1/members")))["members"]
    return {m["name"]: sorted(m["roles"]) for m in members if m["status"] == "alive"}


async def wait_stats(http: aiohttp.ClientSession, node: Process, is_true) -> dict:
    """Return a node's statistics once they fulfil a condition."""
    async with asyncio.timeout(READY_S):
        while True:
            stats = await _get(http, node.url("/stats"))
            if stats is not None and is_true(stats):
                return stats
            await asyncio.sleep(0.01)


async def run_mesh(
    *arguments: str, python: tuple[str, ...] = (), **environ: str
) -> tuple[int, str]:
    """Run the command line to its end; return the exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *python, "-m", "mesh", *arguments,
        cwd=ROOT, env=clean_environment() | environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(READY_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode()


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of a mesh."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MESH__")}


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


async def _get(http: aiohttp.ClientSession, address: str):
    try:
        async with http.get(address) as response:
            return await response.json() if response.status == 200 else None
    except aiohttp.ClientConnectionError:
        return None

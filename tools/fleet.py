"""Starts the nodes of a configuration as processes of this machine, and ends every one of them.

Shell: used by the programs that need a mesh for a while (`demo`, `compare`). A node writes
its log to a file; when it dies, the end of that file is its report.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

PROJECT = Path(__file__).resolve().parents[1]
READY_S_MAX = 180.0  # a first start on a slow disk reads half a gigabyte of libraries
STOP_S_MAX = 15.0  # an orderly leave takes a second or two; after this it is ended
POLL_S = 0.2
REPORT_LINES = 25


class NodeDied(Exception):
    """A node ended by itself; the text is its report."""


@dataclass
class Node:
    """One node: where it listens, and its process."""

    config: Path
    http: str
    peer: str
    log: Path
    overrides: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    state: str = "starting"

    @property
    def name(self) -> str:
        """The name of its file, which is the node's own in the examples."""
        return self.config.stem

    @property
    def url(self) -> str:
        """Where its HTTP door is."""
        return f"http://{self.http}"

    def report(self) -> str:
        """Return the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-REPORT_LINES:]) or "it wrote nothing"

    def check(self) -> None:
        """Raise if the process has ended.

        Raises:
            NodeDied: it has.
        """
        if self.process is not None and self.process.returncode is not None:
            code = self.process.returncode
            raise NodeDied(f"{self.name} ended with code {code}. Its last words:\n{self.report()}")


def nodes_of(configs: Sequence[Path], folder: Path) -> tuple[list[Node], list[str]]:
    """Return the nodes of some files, on their own ports or, where one is taken, on free ones.

    Args:
        configs: the node files.
        folder: where logs go.

    Returns:
        The nodes, and the addresses that were taken.
    """
    nodes = [_read(config, folder) for config in configs]
    taken = [one for node in nodes for one in (node.http, node.peer) if not is_free(one)]
    if taken:
        move(nodes, folder)
    return nodes, taken


def move(nodes: Sequence[Node], folder: Path) -> None:
    """Give every node free ports, data of its own below `folder`, and the others as seeds."""
    ports = iter(free_ports(2 * len(nodes)))
    for node in nodes:
        node.http, node.peer = f"127.0.0.1:{next(ports)}", f"127.0.0.1:{next(ports)}"
    for node in nodes:
        seeds = [f'"{other.peer}"' for other in nodes if other is not node]
        node.overrides |= {
            "MESH__LISTEN__HTTP": node.http,
            "MESH__LISTEN__PEER": node.peer,
            "MESH__JOIN__SEEDS": f"[{', '.join(seeds)}]",
            "MESH__DATA": str(folder / node.name),
        }


def is_free(address: str) -> bool:
    """Whether an address can be listened on, by TCP and UDP."""
    host, port = address.rsplit(":", 1)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
            try:
                one.bind((host, int(port)))
            except OSError:
                return False
    return True


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.asynccontextmanager
async def running(nodes: Sequence[Node]) -> AsyncIterator[None]:
    """Start nodes, and stop them at the end, whatever ends it: SIGTERM too."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        for node in nodes:
            await start(node)
        yield
    finally:
        # Shielded: a second Ctrl-C must not leave processes behind.
        await asyncio.shield(stop(nodes))
        loop.remove_signal_handler(signal.SIGTERM)


async def start(node: Node) -> None:
    """Start one node's process.

    It gets a session of its own: Ctrl-C reaches this program only, which then ends the
    nodes in order.
    """
    node.log.parent.mkdir(parents=True, exist_ok=True)
    with node.log.open("wb") as log:
        node.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mesh",
            "--config",
            str(node.config),
            cwd=PROJECT,
            env={**os.environ, **node.overrides},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def stop(nodes: Sequence[Node]) -> None:
    """End all nodes: SIGTERM to each, SIGKILL to those that do not go in time."""
    alive = [node.process for node in nodes if node.process and node.process.returncode is None]
    for process in alive:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S_MAX):
            for process in alive:
                await process.wait()
    except TimeoutError:
        for process in alive:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def wait_ready(nodes: Sequence[Node], show: Callable[[], None] = lambda: None) -> None:
    """Wait until every node is ready and knows all others; `show` is called after each look.

    Raises:
        NodeDied: a node ended.
        TimeoutError: it takes too long; the text says what each node waits for.
    """
    end_s = time.monotonic() + READY_S_MAX
    timeout = aiohttp.ClientTimeout(total=POLL_S * 10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            for node in nodes:
                node.check()
                node.state = await _state_of(node, session, len(nodes))
            show()
            if all(node.state == "ready" for node in nodes):
                return
            if time.monotonic() > end_s:
                waits = "; ".join(f"{node.name}: {node.state}" for node in nodes)
                raise TimeoutError(f"not ready after {READY_S_MAX:.0f} s: {waits}")
            await asyncio.sleep(POLL_S)


async def wait_death(nodes: Sequence[Node]) -> None:
    """Wait until a node ends by itself.

    Raises:
        NodeDied: always, in the end.
    """
    waits = [asyncio.create_task(node.process.wait()) for node in nodes if node.process]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    for node in nodes:
        node.check()


def _read(config: Path, folder: Path) -> Node:
    listen = tomllib.loads(config.read_text()).get("listen", {})
    return Node(
        config,
        listen.get("http", "127.0.0.1:8000"),
        listen.get("peer", "127.0.0.1:7000"),
        folder / f"{config.stem}.log",
    )


async def _state_of(node: Node, session: aiohttp.ClientSession, count: int) -> str:
    """Return "ready", or in a few words what a node waits for."""
    try:
        async with session.get(f"{node.url}/readyz") as answer:
            if answer.status != 200:
                return str((await answer.json()).get("reason", answer.status))
        async with session.get(f"{node.url}/v1/members") as answer:
            members = (await answer.json())["members"]
    except (aiohttp.ClientError, OSError, TimeoutError):
        return "starting"
    alive = sum(one["status"] == "alive" for one in members)
    return "ready" if alive >= count else f"sees {alive} of {count} nodes"

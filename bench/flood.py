"""Measures how fast a node decodes while it is flooded with requests: lane thread beside process.

    python -m bench.flood [--rounds 5] [--rows 1,8] [--rate 15000] [--connections 32]

Shell. SmolLM2-135M-Instruct Q4_1, one compute thread; one node per lane, both stay up and take
turns, in another order each round, alone and flooded. The flood is GETs from a process of its
own, on the same cores, as many as `--rate` or as the node answers: nothing is pinned. Prompts of
32 random tokens, end tokens ignored; a figure is tokens of all sequences per second between the
first token and the 129th: the time of 129 tokens less that of one. Medians over rounds, with the
least and the most.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from bench import meshes
from bench.llm import SOURCE
from bench.load import Connection, Tally, figures
from bench.report import middle, progress, publish, spread, table
from bench.servers import PYTHON, ROOT, Server, free_port, running
from mesh.client import Client

LANES = ("thread", "process")
TOKENS, PROMPT = 128, 32
TARGET = 0.8  # of the speed alone, for the process
ROLE = """
[models.smollm2]
source = "{source}"
[roles.generate]
kind = "generate"
drafts_max = 0  # how many are right differs from prompt to prompt
model = "smollm2"
nodes = ["n0"]
lane = "{lane}"
context_max = 1024
"""
BODY = json.dumps({"prompt": [5, 6, 7], "tokens_max": 1}).encode()


@dataclass
class Figures:
    """What was measured of one lane with so many sequences, a value per round."""

    alone: list[float] = field(default_factory=list)
    flooded: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    requests_per_s: list[float] = field(default_factory=list)
    client_share: list[float] = field(default_factory=list)
    node_cores: list[float] = field(default_factory=list)  # the node with its child


async def took_s(client: Client, prompts: list[list[int]], tokens: int) -> float:
    """Return seconds until all answers are whole."""
    began_s = time.perf_counter()
    wishes: dict[str, Any] = {"tokens_max": tokens, "ignores_ends": True}
    await asyncio.gather(*(client.call("generate", prompt=p, **wishes) for p in prompts))
    return time.perf_counter() - began_s


async def rate(client: Client, rows: int, draw: random.Random) -> float:
    """Return tokens per second of so many sequences at once."""
    prompts = [[draw.randrange(100, 40000) for _ in range(PROMPT)] for _ in range(rows)]
    first_s = await took_s(client, prompts, 1)
    whole_s = await took_s(client, prompts, TOKENS + 1)
    return rows * TOKENS / (whole_s - first_s)


async def flooded(
    server: Server, client: Client, rows: int, draw: random.Random, options: list[str]
) -> tuple[float, float, dict[str, Any]]:
    """Return tokens per second, the cores that the node used, and figures of the flood."""
    flood = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "bench.flood", "--into", str(server.port), *options),
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert flood.stdout is not None
    await flood.stdout.readline()  # it has begun
    began_s, cpu_s = time.perf_counter(), server.cpu_s()
    found = await rate(client, rows, draw)
    cores = (server.cpu_s() - cpu_s) / (time.perf_counter() - began_s)
    told, _ = await flood.communicate(b"")  # the end of its input ends it
    return found, cores, json.loads(told)


class Pace:
    """Lets so many requests a second go: a bucket, filled every millisecond or so."""

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._level = 0.0
        self._filled_s = time.monotonic()
        self._waiting: deque[Callable[[], None]] = deque()

    def ask(self, send: Callable[[], None]) -> None:
        """Call `send` now, or once there is room."""
        if self._level >= 1.0:
            self._level -= 1.0
            send()
        else:
            self._waiting.append(send)

    async def run(self) -> None:
        """Fill the bucket until cancelled; what nobody wanted for 20 ms is lost."""
        while True:
            await asyncio.sleep(0.001)
            now_s = time.monotonic()
            most = self._rate_per_s * 0.02
            self._level = min(most, self._level + (now_s - self._filled_s) * self._rate_per_s)
            self._filled_s = now_s
            while self._level >= 1.0 and self._waiting:
                self._level -= 1.0
                self._waiting.popleft()()


class Paced(Connection):
    """A kept connection that asks its pace before it sends."""

    def __init__(self, request: bytes, tally: Tally, pace: Pace) -> None:
        super().__init__([request], 0, tally)
        self._pace = pace

    def _send(self) -> None:
        self._pace.ask(super()._send)


async def flood(port: int, path: str, connections: int, rate_per_s: float) -> None:
    """Flood a door until standard input ends, and print the figures."""
    tally, pace, loop = Tally(), Pace(rate_per_s), asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for _ in range(connections):
        await loop.create_connection(partial(Paced, request, tally, pace), "127.0.0.1", port)
    pacing = loop.create_task(pace.run())
    await asyncio.sleep(0.5)
    tally.restart()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    print("flooding", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    took = time.perf_counter() - began_s, time.process_time() - cpu_s
    pacing.cancel()
    print(json.dumps(figures(tally, *took)))


async def measure(
    servers: dict[str, Server], rows: list[int], rounds: int, options: list[str]
) -> dict[str, dict[str, Figures]]:
    """Let the lanes take turns."""
    draw = random.Random(1)
    found = {f"{count}": {lane: Figures() for lane in servers} for count in rows}
    clients = {
        lane: Client(f"http://127.0.0.1:{server.port}", deadline_s=120)
        for lane, server in servers.items()
    }
    for turn in range(rounds + 1):
        for count in rows:
            for lane in LANES[:: 1 if turn % 2 else -1]:
                alone = await rate(clients[lane], count, draw)
                server, client = servers[lane], clients[lane]
                wet, cores, told = await flooded(server, client, count, draw, options)
                progress(f"round {turn}: {count} rows, {lane}: {alone:.0f}, {wet:.0f}, {told}")
                if turn:  # the first is for warming up
                    one = found[f"{count}"][lane]
                    one.alone.append(alone)
                    one.flooded.append(wet)
                    one.kept.append(wet / alone)
                    one.requests_per_s.append(told["requests_per_s"])
                    one.client_share.append(told["client_share"])
                    one.node_cores.append(cores)
    for client in clients.values():
        await client.aclose()
    return found


def show(found: dict[str, dict[str, Figures]]) -> str:
    """Return the table."""
    rows = []
    for count, lanes in found.items():
        for lane, one in lanes.items():
            wanted = f" (wanted {TARGET})" if lane == "process" else ""
            rows.append(
                [
                    f"{count} sequence(s), {lane}",
                    spread(one.alone),
                    spread(one.flooded),
                    spread(one.kept, 2) + wanted,
                    spread(one.requests_per_s),
                    f"{middle(one.node_cores):.2f}",
                    f"{middle(one.client_share):.2f}",
                ]
            )
    head = ["", "alone", "flooded", "kept", "requests/s", "node, cores", "flood, cores"]
    return table(head, rows)


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=15_000, help="requests a second, at most")
    parser.add_argument("--path", default="/livez")
    parser.add_argument("--into", type=int, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.into:
        uvloop.run(flood(chosen.into, chosen.path, chosen.connections, chosen.rate))
        return 0
    options = [f"--{name}={vars(chosen)[name]}" for name in ("connections", "path", "rate")]
    rows = [int(count) for count in chosen.rows.split(",")]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {}
        for lane in LANES:
            place, port = Path(folder) / lane, free_port()
            commands = meshes.write(place, ["n0"], ROLE.format(source=SOURCE, lane=lane), port)
            progress(f"{lane}: loading")
            context = running(commands, port, "/v1/roles/generate", BODY, place / "log.txt")
            servers[lane] = stack.enter_context(context)
        found = asyncio.run(measure(servers, rows, chosen.rounds, options))
    data = {count: {lane: vars(one) for lane, one in each.items()} for count, each in found.items()}
    title = "Decoding in a flood of requests to the same node, tokens per second"
    publish("flood", title, show(found), data)
    return 0


if __name__ == "__main__":
    sys.exit(main())

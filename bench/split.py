"""Measures one language model split over three nodes: beside it whole, and llama.cpp's split.

    python -m bench.split [--rounds 5] [--layers auto] [--threads 1] [--rows 1,4,8,16]

Shell. SmolLM2-135M-Instruct Q4_1, all on the same two cores. Whole: one node with two threads.
Split: three nodes of one thread each. RPC: llama.cpp with its layers on three RPC servers of
one thread each, asked without HTTP by a client that holds none. All take turns. Prompts of 32
random tokens, end tokens ignored, nobody guesses tokens; a figure is tokens of all sequences per
second after the first: the time of 65 tokens less that of one. Medians over rounds, with the
least and the most. Processor time is that of all processes of a contestant for the same tokens:
it depends less than the clock on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.llm import SOURCE
from bench.report import middle, progress, publish, spread, table
from bench.servers import PYTHON, ROOT, environment_of, family, free_port
from bench.workers import Worker
from mesh.client import Client
from mesh.models import sources

ROWS = (1, 4, 8, 16)
TOKENS, PROMPT, LONG = 64, 32, 512
TARGETS = {"whole": 0.85, "rpc": 2.5}  # what the split set out to reach of them at 8 sequences
PEER = "llamacpp-rpc"
ROLE = """
[mesh]
name = "bench-{name}"
[models.smollm2]
source = "{source}"
[roles.generate]
kind = "generate"
model = "smollm2"
nodes = {nodes}
{layers}
sequences_max = 16
context_max = 1024
drafts_max = 0
"""


class Mesh:
    """Nodes with one role, as processes."""

    def __init__(self, name: str, folder: Path, nodes: int, threads: int, layers: str) -> None:
        names = [f"n{at}" for at in range(nodes)]
        folder.mkdir(parents=True)
        split = f"layers = {layers}" if nodes > 1 else ""
        text = ROLE.format(name=name, source=SOURCE, nodes=json.dumps(names), layers=split)
        (folder / "topology.toml").write_text(text)
        peers = [free_port() for _ in names]
        seeds = json.dumps([f"127.0.0.1:{port}" for port in peers])
        self.doors = [free_port() for _ in names]
        self.processes = []
        for at, one in enumerate(names):
            file = folder / f"{one}.toml"
            file.write_text(
                f'name = "{one}"\ntopology = "topology.toml"\ndata = "var/{one}"\n'
                f'[listen]\nhttp = "127.0.0.1:{self.doors[at]}"\n'
                f'peer = "127.0.0.1:{peers[at]}"\n[join]\nseeds = {seeds}\n'
                f"[compute]\nthreads = {threads}\n"
            )
            command = [PYTHON, "-m", "mesh", "--config", str(file)]
            with (folder / f"{one}.log").open("wb") as errors:
                self.processes.append(subprocess.Popen(command, cwd=ROOT, stderr=errors))
        self.client = Client(f"http://127.0.0.1:{self.doors[0]}", deadline_s=120)

    async def wait(self) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(120):
            while True:
                try:
                    await self.client.call("generate", prompt=[5, 6, 7], tokens_max=1)
                except Exception:  # noqa: BLE001 - it starts
                    await asyncio.sleep(0.2)
                else:
                    return

    async def took_s(self, prompts: list[list[int]], tokens: int) -> float:
        """Return seconds until all answers are whole."""
        began_s = time.perf_counter()
        wishes = {"tokens_max": tokens, "ignores_ends": True}
        await asyncio.gather(
            *(self.client.call("generate", prompt=prompt, **wishes) for prompt in prompts)
        )
        return time.perf_counter() - began_s

    async def rate(self, rows: int, draw: random.Random) -> tuple[float, float]:
        """Return tokens per second of so many sequences at once, and ms of processor a token."""
        prompts = [[draw.randrange(100, 40000) for _ in range(PROMPT)] for _ in range(rows)]
        first_s = await self.took_s(prompts, 1)
        before_s = _cpu_s(self.pids())
        whole_s = await self.took_s(prompts, TOKENS + 1)
        used_s = _cpu_s(self.pids()) - before_s
        return rows * TOKENS / (whole_s - first_s), used_s * 1e3 / (rows * TOKENS)

    async def prefill(self, draw: random.Random) -> float:
        """Return prompt tokens per second, to the first token."""
        prompt = [draw.randrange(100, 40000) for _ in range(LONG)]
        return LONG / await self.took_s([prompt], 1)

    def pids(self) -> list[int]:
        """Return its processes."""
        return [each.pid for each in self.processes]

    async def engine(self) -> dict[str, Any]:
        """Return the engine's figures."""
        return dict((await self.client.get("/stats"))["roles"]["generate"]["engine"])

    def close(self) -> None:
        """End the nodes."""
        for process in self.processes:
            process.kill()
            process.wait()


class Rpc:
    """llama.cpp with its layers on RPC servers."""

    def __init__(self, folder: Path, nodes: int, threads: int) -> None:
        endpoints = [f"127.0.0.1:{free_port()}" for _ in range(nodes)]
        path = str(sources.locate(SOURCE))
        command = [str(environment_of(PEER)), "-m", "bench.contestants.llm_llamacpp_rpc"]
        self._worker = Worker(
            [*command, path, str(threads), *endpoints], ROOT, threads, folder / "rpc.txt"
        )
        self.close = self._worker.close

    async def wait(self) -> None:
        """Return: a worker is ready when it is there."""

    async def rate(self, rows: int, draw: random.Random) -> tuple[float, float]:
        """Return tokens per second, and milliseconds of processor a token."""
        before_s = _cpu_s(self.pids())
        wish = {"what": "decode", "rows": rows, "prompt": PROMPT, "tokens": TOKENS + 1}
        found = await asyncio.to_thread(self._worker.ask, **wish)
        used_s = _cpu_s(self.pids()) - before_s
        return float(found["tokens_per_s"]), used_s * 1e3 / (rows * TOKENS)

    async def prefill(self, draw: random.Random) -> float:
        """Return prompt tokens per second, to the first token."""
        found = await asyncio.to_thread(self._worker.ask, what="prefill", prompt=LONG)
        return float(found["tokens_per_s"])

    def pids(self) -> list[int]:
        """Return its processes."""
        return [self._worker.pid]


def _cpu_s(pids: list[int]) -> float:
    times = [process.cpu_times() for process in family(pids)]
    return sum(each.user + each.system for each in times)


def _resident_mb(pids: list[int]) -> list[int]:
    return [process.memory_info().rss >> 20 for process in family(pids)]


Figures = dict[str, dict[str, list[float]]]


async def measure(
    contestants: dict[str, Mesh | Rpc], rounds: int, counts: list[int]
) -> tuple[Figures, Figures]:
    """Let all take turns; return tokens per second, and milliseconds of processor a token."""
    draw = random.Random(1)
    works = [*(f"{rows} sequences" for rows in counts), f"prompt of {LONG}"]
    rates: Figures = {work: {name: [] for name in contestants} for work in works}
    costs: Figures = {work: {name: [] for name in contestants} for work in works[:-1]}
    for turn in range(rounds + 1):
        order = list(contestants) if turn % 2 else list(contestants)[::-1]
        for rows, work in zip([*counts, 0], works, strict=True):
            for name in order:
                one = contestants[name]
                rate, cost = await one.rate(rows, draw) if rows else (await one.prefill(draw), 0)
                if turn:  # the first is for warming up
                    rates[work][name].append(rate)
                if turn and rows:
                    costs[work][name].append(cost)
        shown = {
            work: {n: round(v[-1]) for n, v in each.items() if v} for work, each in rates.items()
        }
        progress(f"round {turn}: {shown}")
    return rates, costs


def _open(stack: ExitStack, folder: Path, layers: str, threads: int) -> dict[str, Mesh | Rpc]:
    """Start the contestants; close them with the stack."""
    found: dict[str, Mesh | Rpc] = {
        "whole": Mesh("whole", folder / "whole", 1, 2, ""),
        "split": Mesh("split", folder / "split", 3, threads, layers),
    }
    if environment_of(PEER) is None:
        progress(f"{PEER}: not installed; python -m bench.peers {PEER}")
    else:
        found["rpc"] = Rpc(folder, 3, 1)
    for each in found.values():
        stack.callback(each.close)
    return found


def _table(rates: Figures, costs: Figures, names: list[str]) -> str:
    others = [name for name in names if name != "split"]
    rows = []
    for work, each in rates.items():
        ratios = [_ratio(work, each, other) for other in others]
        rows.append([work, *(spread(each[name]) for name in names), *ratios])
    head = ["", *names, *(f"split / {other}" for other in others)]
    used = [
        [work, *(f"{middle(each[name]):.1f}" for name in names)] for work, each in costs.items()
    ]
    return table(head, rows) + "\n\n" + table(["ms of processor a token", *names], used)


def _ratio(work: str, each: dict[str, list[float]], other: str) -> str:
    found = f"{middle(each['split']) / middle(each[other]):.2f}"
    return f"{found} (wanted {TARGETS[other]})" if work.startswith("8 ") else found


def _words(engine: dict[str, Any], memory: dict[str, list[int]]) -> list[str]:
    """Return what is told beside the tables."""
    parts, names = engine["chain"]["nodes"], ("own_ms", "round_ms", "compute_ms", "wait_ms")
    hops = len(parts)
    return [
        f"Layers: {[each['layers'] for each in parts]}; "
        f"bytes {[each.get('bytes') for each in parts]}",
        f"Resident MB per process: {memory}",
        f"A step of the split, ms: { ({name: engine[name] for name in names}) }, and {hops} hops"
        f" of {engine['hop_ms']} each; modes chosen {engine['lanes_chosen']}",
    ]


async def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", default='"auto"')
    parser.add_argument("--threads", type=int, default=1, help="of each node of the split")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        contestants = _open(stack, Path(folder), chosen.layers, chosen.threads)
        for each in contestants.values():
            await each.wait()
        counts = [int(each) for each in chosen.rows.split(",")]
        rates, costs = await measure(contestants, chosen.rounds, counts)
        memory = {name: _resident_mb(each.pids()) for name, each in contestants.items()}
        meshes = [each for each in contestants.values() if isinstance(each, Mesh)]
        engine = await meshes[1].engine()
        for mesh in meshes:
            await mesh.client.aclose()
    notes = [_table(rates, costs, list(contestants)), *_words(engine, memory)]
    title = "One language model on three nodes, tokens per second"
    publish("split", title, "\n\n".join(notes), {"rates": rates, "costs": costs})
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))

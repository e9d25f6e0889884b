"""Measures one language model split over three nodes beside the same model whole on one.

    python -m bench.split [--rounds 5] [--layers auto]

Shell. SmolLM2-135M-Instruct Q4_1. Whole: one node with two threads. Split: three nodes of
one thread each, on the same two cores. Both meshes stay up and take turns. Prompts of 32
random tokens, end tokens ignored; the figure is tokens of all sequences per second between
the first token and the 65th: the time of 65 tokens less that of one. Medians over rounds,
with the least and the most.
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

import psutil

from bench.llm import SOURCE
from bench.report import middle, progress, publish, spread, table
from bench.servers import PYTHON, ROOT, free_port
from mesh.client import Client

ROWS = (1, 4, 8, 16)
TOKENS, PROMPT = 64, 32
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

    async def rate(self, rows: int, draw: random.Random) -> float:
        """Return tokens per second of so many sequences at once."""
        prompts = [[draw.randrange(100, 40000) for _ in range(PROMPT)] for _ in range(rows)]
        first_s = await self.took_s(prompts, 1)
        whole_s = await self.took_s(prompts, TOKENS + 1)
        return rows * TOKENS / (whole_s - first_s)

    async def prefill(self, draw: random.Random) -> float:
        """Return prompt tokens per second, to the first token."""
        prompt = [draw.randrange(100, 40000) for _ in range(512)]
        return 512 / await self.took_s([prompt], 1)

    async def engine(self) -> dict[str, Any]:
        """Return the engine's figures."""
        return dict((await self.client.get("/stats"))["roles"]["generate"]["engine"])

    def resident_mb(self) -> list[int]:
        """Return the resident memory of each node."""
        return [psutil.Process(each.pid).memory_info().rss >> 20 for each in self.processes]

    def close(self) -> None:
        """End the nodes."""
        for process in self.processes:
            process.kill()
            process.wait()


async def measure(
    meshes: dict[str, Mesh], rounds: int, counts: list[int]
) -> dict[str, dict[str, list[float]]]:
    """Let both take turns."""
    draw = random.Random(1)
    works = [*(f"{rows} sequences" for rows in counts), "prompt of 512"]
    figures = {work: {name: list[float]() for name in meshes} for work in works}
    for turn in range(rounds + 1):
        order = list(meshes) if turn % 2 else list(meshes)[::-1]
        for work in works:
            for name in order:
                rows = 0 if work.startswith("prompt") else int(work.split()[0])
                mesh = meshes[name]
                found = await (mesh.rate(rows, draw) if rows else mesh.prefill(draw))
                if turn:  # the first is for warming up
                    figures[work][name].append(found)
        shown = {
            work: {n: round(v[-1]) for n, v in each.items() if v} for work, each in figures.items()
        }
        progress(f"round {turn}: {shown}")
    return figures


async def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", default='"auto"')
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        meshes = {
            "whole": Mesh("whole", Path(folder) / "whole", 1, 2, ""),
            "split": Mesh("split", Path(folder) / "split", 3, 1, chosen.layers),
        }
        for mesh in meshes.values():
            stack.callback(mesh.close)
        for mesh in meshes.values():
            await mesh.wait()
        await asyncio.sleep(2)
        figures = await measure(
            meshes, chosen.rounds, [int(each) for each in chosen.rows.split(",")]
        )
        engine = await meshes["split"].engine()
        memory = {name: mesh.resident_mb() for name, mesh in meshes.items()}
        for mesh in meshes.values():
            await mesh.client.aclose()
    rows = [
        [
            work,
            *(spread(each[name]) for name in each),
            f"{middle(each['split']) / middle(each['whole']):.2f}",
        ]
        for work, each in figures.items()
    ]
    names = ("round_ms", "compute_ms", "wait_ms", "hop_ms")
    notes = [
        table(["", *meshes, "split / whole"], rows),
        f"Layers: {[each['layers'] for each in engine['chain']['nodes']]}; "
        f"bytes {[each.get('bytes') for each in engine['chain']['nodes']]}",
        f"Resident MB per node: {memory}",
        f"A step of the split: { ({name: engine[name] for name in names}) }",
    ]
    publish(
        "split", "One language model on three nodes, tokens per second", "\n\n".join(notes), figures
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))

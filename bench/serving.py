"""Measures what a server adds to a small model: the mesh beside bare servers and four peers.

    python -m bench.serving [--rounds 5] [--seconds 2] [--connections 1,32,128] [--only mesh,bare]

Shell. All serve the model of `bench.mlp` on the same JSON bodies, in batches up to 32. In each
round every contestant is started afresh, alone, in another order; asked from a process of its
own; and stopped. Medians over rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import meshes, mlp
from bench.load import CLIENT_SHARE_MAX
from bench.report import middle, progress, publish, spread, table
from bench.servers import PYTHON, Server, environment_of, free_port, post, running

BODIES = 64
Figures = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """Someone who is measured.

    Attributes:
        title: in the table.
        path: of the POST.
        commands: returns the processes to start, given a port and a folder.
        peer: the environment that it needs, "" for the mesh's own.
        nests: whether a request is a batch of one row, as BentoML has it.
    """

    title: str
    path: str
    commands: Callable[[int, Path], Sequence[Sequence[str]]]
    peer: str = ""
    nests: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether its environment has been made."""
        return not self.peer or environment_of(self.peer) is not None

    def start(self, folder: Path, body: bytes) -> AbstractContextManager[Server]:
        """Run it for the length of a block."""
        port = free_port()
        return running(self.commands(port, folder), port, self.path, body, folder / "log.txt")


def own(module: str, *options: str) -> Callable[[int, Path], list[list[str]]]:
    """Return how to start a contestant of this environment."""
    return lambda port, _: [[PYTHON, "-m", f"bench.contestants.{module}", str(port), *options]]


def peers_own(module: str, *options: str) -> Callable[[int, Path], list[list[str]]]:
    """Return how to start a contestant of its own environment."""

    def commands(port: int, _folder: Path) -> list[list[str]]:
        python = str(environment_of(module))
        return [[python, "-m", f"bench.contestants.{module}", str(port), *options]]

    return commands


def one_node(lane: str, roles: Callable[[str], str]) -> Callable[[int, Path], list[list[str]]]:
    """Return how to start a mesh of one node."""
    return lambda port, folder: meshes.write(folder, ["n0"], roles(lane), port)


def two_nodes(lane: str) -> Callable[[int, Path], list[list[str]]]:
    """Return how to start a mesh whose door is on one node and whose role is on the other."""
    roles = meshes.lone(lane, owner="n1")
    return lambda port, folder: meshes.write(folder, ["n0", "n1"], roles, port)


ROLE, PIPELINE = "/v1/roles/mlp", "/v1/pipelines/chain"
CONTESTANTS = {
    "ceiling": Contestant("the client itself (constant answer)", "/", own("ceiling")),
    "raw": Contestant("bare socket, inline (believes all it reads)", "/", own("bare", "raw")),
    "bare": Contestant("bare aiohttp, inline", "/", own("bare")),
    "bare-thread": Contestant("bare aiohttp, thread", "/", own("bare", "thread")),
    "mesh": Contestant("mesh, inline lane", ROLE, one_node("inline", meshes.lone)),
    "mesh-thread": Contestant("mesh, thread lane", ROLE, one_node("thread", meshes.lone)),
    "mesh-remote": Contestant("mesh, role on another node, inline", ROLE, two_nodes("inline")),
    "mesh-remote-thread": Contestant(
        "mesh, role on another node, thread", ROLE, two_nodes("thread")
    ),
    "mesh-chain": Contestant(
        "mesh, three stages, inline", PIPELINE, one_node("inline", meshes.chain)
    ),
    "mosec": Contestant("Mosec, as documented", "/inference", peers_own("mosec"), "mosec"),
    "mosec-tuned": Contestant(
        "Mosec, orjson and 1 ms window", "/inference", peers_own("mosec", "tuned"), "mosec"
    ),
    "litserve": Contestant("LitServe", "/", peers_own("litserve"), "litserve"),
    "bentoml": Contestant("BentoML", "/", peers_own("bentoml"), "bentoml", nests=True),
    "ray": Contestant("Ray Serve", "/", peers_own("ray"), "ray"),
}


def bodies(*, nests: bool = False) -> list[bytes]:
    """Return what is asked, in turn."""
    rows = mlp.inputs(BODIES).astype(float).round(4).tolist()
    asked = [{"x": [row] if nests else row} for row in rows]
    return [json.dumps(each, separators=(",", ":")).encode() for each in asked]


def check(name: str, url: str, asked: Sequence[bytes]) -> None:
    """Raise unless the contestant answers with the model's answers."""
    layers = 3 if name == "mesh-chain" else 1
    for body in asked[:8]:
        expected = np.array(json.loads(body)["x"], dtype=np.float32).reshape(1, -1)
        for _ in range(layers):
            expected = mlp.forward(expected)
        answer = json.loads(post(url, body))
        found = np.array(answer["y"] if isinstance(answer, dict) else answer).reshape(-1)
        if not np.allclose(found, expected[0], atol=1e-4):
            raise RuntimeError(f"{name} answers wrongly: {found[:4]} for {expected[0, :4]}")


def ask(server: Server, path: str, connections: int, seconds: float, file: Path) -> Figures:
    """Return one run's figures, with the server's CPU time per request."""
    command = [PYTHON, "-m", "bench.load", "--port", str(server.port), "--path", path]
    command += ["--bodies", str(file), "--connections", str(connections)]
    warm_s = 0.5
    before_s = server.cpu_s()
    found = subprocess.run(
        [*command, "--seconds", str(seconds), "--warm", str(warm_s)],
        check=True,
        capture_output=True,
        timeout=seconds + 60,
    )
    figures: Figures = json.loads(found.stdout)
    # Warm-up requests cost CPU time too: the share of time stands for the share of requests.
    share = seconds / (seconds + warm_s)
    used_s = (server.cpu_s() - before_s) * share
    figures["cpu_us_per_request"] = used_s / max(1, figures["requests"]) * 1e6
    figures["resident_mb"] = server.resident_bytes() / 1e6
    return figures


def play(name: str, given: argparse.Namespace) -> dict[int, Figures]:
    """Return one contestant's figures of one round, by connections."""
    contestant = CONTESTANTS[name]
    asked = bodies(nests=contestant.nests)
    with (
        tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder,
        contestant.start(Path(folder), asked[0]) as server,
    ):
        file = Path(folder) / "bodies.jsonl"
        file.write_bytes(b"\n".join(asked))
        if name != "ceiling":
            check(name, f"http://127.0.0.1:{server.port}{contestant.path}", asked)
        return {
            connections: ask(server, contestant.path, connections, given.seconds, file)
            for connections in given.connections
        }


def measure(given: argparse.Namespace, names: Sequence[str]) -> dict[str, dict[int, list[Figures]]]:
    """Return every run, by contestant and connections."""
    found: dict[str, dict[int, list[Figures]]] = {name: {} for name in names}
    for turn in range(given.rounds):
        # Each starts from another place and every second round runs backwards.
        order = [*names[turn % len(names) :], *names[: turn % len(names)]]
        for name in order if turn % 2 == 0 else reversed(order):
            runs = play(name, given)
            for connections, figures in runs.items():
                found[name].setdefault(connections, []).append(figures)
            shown = ", ".join(f"{n}: {r['requests_per_s']:,.0f}/s" for n, r in runs.items())
            progress(f"round {turn + 1}/{given.rounds}  {name:20} {shown}")
    return found


def rendered(found: dict[str, dict[int, list[Figures]]], connections: Sequence[int]) -> str:
    """Return the table."""
    head = ["server"]
    for number in connections:
        head += [f"{number}: requests/s", "p50 ms", "p99 ms"]
    head += ["of bare", "CPU µs/request", "memory MB"]
    middle_one = 32 if 32 in connections else connections[-1]
    bare = found.get("bare", {}).get(middle_one)
    rows = []
    for name, runs in found.items():
        row = [CONTESTANTS[name].title]
        for number in connections:
            row += _cells(runs[number])
        rate = middle([run["requests_per_s"] for run in runs[middle_one]])
        base = middle([run["requests_per_s"] for run in bare]) if bare else 0.0
        row.append(f"{rate / base:.2f}" if base else "")
        row.append(f"{middle([run['cpu_us_per_request'] for run in runs[middle_one]]):.0f}")
        row.append(f"{middle([run['resident_mb'] for run in runs[middle_one]]):.0f}")
        rows.append(row)
    return table(head, rows)


def _cells(runs: Sequence[Figures]) -> list[str]:
    p99 = [run["p99_ms"] for run in runs if "p99_ms" in run]
    return [
        spread([run["requests_per_s"] for run in runs]),
        f"{middle([run.get('p50_ms', 0.0) for run in runs]):.3f}",
        f"{middle(p99):.2f}" if p99 else "-",
    ]


def notes(found: dict[str, dict[int, list[Figures]]], missing: Sequence[str]) -> str:
    """Return what a reader of the table must know."""
    lines = ['"of bare" and CPU are at 32 connections; medians (least-most over rounds).']
    lines.append(
        "The mesh reads plain requests itself and leaves the others to aiohttp; bare aiohttp and "
        "the peers read HTTP as they do. Only the mesh checks hosts, sizes, types and deadlines, "
        "and answers with ids and traces. Mosec, LitServe, BentoML and Ray Serve use several "
        "processes, the mesh one for each node."
    )
    runs = [
        run for name, by in found.items() if name != "ceiling" for r in by.values() for run in r
    ]
    failed = sum(sum(run["errors"].values()) for run in runs)
    lines.append(f"{failed} requests failed of {sum(run['requests'] for run in runs):,}.")
    if any(run["client_share"] > CLIENT_SHARE_MAX for run in runs):
        lines.append("**The client was busy above 90 % of a core in some runs.**")
    if missing:
        lines.append(f"Not installed (`make bench-peers`): {', '.join(missing)}.")
    return " ".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument(
        "--connections", type=lambda text: [int(n) for n in text.split(",")], default=[1, 32, 128]
    )
    parser.add_argument("--only", help=f"some of {','.join(CONTESTANTS)}")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else list(CONTESTANTS)
    if unknown := set(wanted) - set(CONTESTANTS):
        parser.error(f"no contestant {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    names = [name for name in wanted if CONTESTANTS[name].is_installed]
    missing = [CONTESTANTS[name].title for name in wanted if name not in names]
    found = measure(given, names)
    body = rendered(found, given.connections) + "\n\n" + notes(found, missing)
    publish("serving", "Serving overhead", body, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

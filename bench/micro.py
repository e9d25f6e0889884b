"""Measures the machines that decide: gossip, ring, batches; each alone, in one process.

    python -m bench.micro [--rounds 7]

Pure but for the clock. The least of the rounds is what the code takes; the median says how busy
the machine was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from random import Random

import numpy as np

from bench.report import middle, progress, publish, table
from mesh.gossip.events import Started, SyncReceived
from mesh.gossip.member import Facts, Member, News, Status
from mesh.gossip.packets import Sync
from mesh.gossip.swim import Swim
from mesh.machine import TICK
from mesh.models import tensor
from mesh.policy.batch import BatchFormer
from mesh.ring.ring import Ring, moves

Case = Callable[[], int]


def gossip() -> Case:
    """Return a node of a mesh of sixteen, driven by its own alarms."""
    rng = Random(1)
    names = [f"n{number}" for number in range(16)]
    members = [
        Member(
            id=f"id-{name}",
            incarnation=0,
            boot=1,
            address=f"10.0.0.{number}:7000",
            facts=Facts(name=name),
            status=Status.ALIVE,
        )
        for number, name in enumerate(names)
    ]
    machine = Swim("bench", members[0], rng)
    machine.handle(Started(), 0.0)
    told = Sync("bench", members[1].id, 1, tuple(News(member) for member in members[1:]))
    machine.handle(SyncReceived(told), 0.0)
    now_s = [0.0]

    def run() -> int:
        for _ in range(1000):
            due_s = machine.wakeup_s()
            now_s[0] = max(now_s[0] + 1e-3, due_s if due_s is not None else now_s[0])
            machine.handle(TICK, now_s[0])
        return 1000

    return run


def ring_owner() -> Case:
    """Return look-ups of 1,000 keys in a ring of sixteen nodes."""
    ring = Ring({f"n{number}": 1.0 for number in range(16)})
    keys = [f"request-{number}" for number in range(1000)]

    def run() -> int:
        for key in keys:
            ring.owners(key, 2)
        return len(keys)

    return run


def ring_change() -> Case:
    """Return building a ring of seventeen nodes, and what a seventeenth takes over."""
    nodes = {f"n{number}": 1.0 for number in range(16)}
    old = Ring(nodes)

    def run() -> int:
        moves(old, Ring({**nodes, "n16": 1.0}))
        return 1

    return run


def batches() -> Case:
    """Return queueing 1,024 items and taking them in batches of 32."""
    former: BatchFormer[int] = BatchFormer(items_max=32)

    def run() -> int:
        for item in range(1024):
            former.submit(item, 0.0, cost=1, priority=1, deadline_s=60.0)
        while former.take(0.0) is not None:
            former.finished(32, 0.001)
        return 1024

    return run


def tensor_engine(rows: int) -> Case:
    """Return the five-layer engine on so many rows."""
    layers = tensor.Layers()
    given = np.random.default_rng(1).random((rows, tensor.WIDTH))

    def run() -> int:
        tensor.forward(layers, given)
        return rows

    return run


CASES: dict[str, Callable[[], Case]] = {
    "gossip: one alarm, 16 members": gossip,
    "ring: owner of a key and its second, 16 nodes": ring_owner,
    "ring: a node joins 16, with what moves": ring_change,
    "batches: one item in and out": batches,
    "tensor engine: one request alone": lambda: tensor_engine(1),
    "tensor engine: one request of 32": lambda: tensor_engine(32),
}


def measure(rounds: int) -> tuple[str, dict[str, list[float]]]:
    """Return the table and the raw figures, microseconds."""
    ready = {name: make() for name, make in CASES.items()}
    took_us: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(rounds + 1):
        for name, run in ready.items():
            began_s = time.perf_counter()
            count = run()
            if turn:  # the first round warms up
                took_us[name].append((time.perf_counter() - began_s) / count * 1e6)
        progress(f"round {turn}/{rounds}")
    rows = [[name, f"{min(us):,.1f}", f"{middle(us):,.1f}"] for name, us in took_us.items()]
    return table(["what", "least µs", "median µs"], rows), took_us


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    body, data = measure(parser.parse_args().rounds)
    publish("micro", "Machines", body, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())

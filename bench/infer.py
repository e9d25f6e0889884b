"""Measures `/infer` with bodies of 3 MB behind a ring of workers, two of which join under load.

    python -m bench.infer [--requests 500] [--only medium,joins]
    python -m bench.infer --requests 5000                  (some minutes)

Shell. `config/ring`: a gateway and three workers, processes of this machine on free ports. Loads:
light 10 at once, medium 50, heavy 100, then the same tensors as bytes, then workers w4 and w5
join while requests run. A body is JSON of 150,528 numbers, as its clients send it. The load comes
from this machine too, and shares its cores. `bench/results/infer_runs.json` and
`infer_events.jsonl` are for `tools.report`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import RESULTS, progress, publish, table
from bench.servers import ROOT
from tools import fleet
from tools.loadgen import phase
from tools.loadgen.crew import Crew, Result
from tools.loadgen.kind import What
from tools.loadgen.machine import environment
from tools.loadgen.plan import Load

CONFIGS = [ROOT / "config" / "ring" / f"{name}.toml" for name in ("gateway", "w1", "w2", "w3")]
LATER = [ROOT / "config" / "ring" / f"{name}.toml" for name in ("w4", "w5")]
LOADS = {"light": 10, "medium": 50, "heavy": 100}  # requests at once
JOINS = "two workers join"
WARM_UP = Load("warm-up", requests=20, concurrent=4)
JOIN_TIMES = 3  # as many requests as the other loads: a worker is up after some seconds
JOIN_SHARE = 12  # the workers join when a twelfth of them are done


def plan(requests: int) -> dict[str, tuple[Load, What]]:
    """Return the phases by the names that `--only` takes: what is sent, and how."""
    found = {
        name: (Load(name, requests, concurrent), What("infer"))
        for name, concurrent in LOADS.items()
    }
    octets = What("infer", encoding="octet-stream")
    found["bytes"] = (Load("medium, as bytes", requests, LOADS["medium"]), octets)
    found["joins"] = (Load(JOINS, JOIN_TIMES * requests, LOADS["medium"]), What("infer"))
    return found


async def measure(phases: list[tuple[Load, What]], folder: Path) -> tuple[list[Any], list[Any]]:
    """Return what each phase gave, and the events of the last one."""
    nodes, _ = fleet.nodes_of([*CONFIGS, *LATER], folder)
    fleet.move(nodes, folder)
    first, later = nodes[: len(CONFIGS)], nodes[len(CONFIGS) :]
    results, events = [], []
    async with fleet.running(first):
        await fleet.wait_ready(first)
        for load, what in phases:
            crew = Crew(targets=[first[0].url], mix=[what])
            await phase.run(crew, WARM_UP)
            if load.name == JOINS:
                result, events = await _with_joins(crew, load, first, later)
            else:
                result = await phase.measure(crew, load)
            results.append(result)
            progress(
                f"{load.name}: {result['throughput']:.1f}/s, {result['failed_requests']} failed"
            )
            for node in first:
                node.check()
    return results, events


async def _with_joins(
    crew: Crew, load: Load, first: Sequence[fleet.Node], later: Sequence[fleet.Node]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run one load; when a part of it is done, start more workers, one after the other."""
    began_s, done = time.monotonic(), asyncio.Event()
    events: list[dict[str, Any]] = []

    async def join() -> None:
        await done.wait()
        known = list(first)
        for node in later:
            await fleet.start(node)
            known.append(node)
            await fleet.wait_ready(known)
            at_s = time.monotonic() - began_s
            events.append({"run": load.name, "at_s": at_s, "text": f"{node.name} is ready"})
            progress(f"{node.name} is ready after {at_s:.0f} s")

    joining = asyncio.create_task(join())
    try:
        result, outcome = await phase.measure_with(
            crew, load, lambda count, _: done.set() if count * JOIN_SHARE > load.requests else None
        )
        await joining
    finally:
        joining.cancel()
        await fleet.stop(later)
    result["after_joins"] = _after(outcome, events)
    return result, events


def _after(outcome: Result, events: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return who answered what was sent when all workers were there."""
    from_s = max(one["at_s"] for one in events)
    late = (one.node for one in outcome.samples if one.sent_s > from_s and not one.failure)
    return dict(sorted(Counter(late).items()))


def rows_of(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return a row of the table for each phase."""
    return [
        [
            one["name"],
            f"{one['total_requests']}",
            f"{one['failed_requests']}",
            f"{one['throughput']:.1f}",
            f"{one['latency']['median']:.0f}" if one["latency"] else "",
            f"{one['latency']['p95']:.0f}" if one["latency"] else "",
            f"{batch_mean(one):.2f}",
            f"{cpu_ms(one, gateway=True):.1f}",
            f"{cpu_ms(one, gateway=False):.1f}",
            f"{one['load_balance_percent']:.1f}",
        ]
        for one in results
    ]


def batch_mean(result: dict[str, Any]) -> float:
    """Return how many requests the workers ran together, in the mean over their batches."""
    sizes: Counter[int] = Counter()
    for node in result["nodes"].values():
        for counts in node["batch_sizes"].values():
            sizes.update({int(size): count for size, count in counts.items()})
    return sum(size * count for size, count in sizes.items()) / max(1, sizes.total())


def cpu_ms(result: dict[str, Any], *, gateway: bool) -> float:
    """Return the milliseconds of processor that a request costs at the gateway, or elsewhere."""
    return sum(
        node["cpu_ms_per_request"]
        for name, node in result["nodes"].items()
        if (name == "gateway") is gateway
    )


def body_of(results: Sequence[dict[str, Any]]) -> str:
    """Return the section's table and notes."""
    head = [
        "load", "requests", "failed", "requests/s", "p50 ms", "p95 ms", "mean batch",
        "gateway CPU ms/request", "workers CPU ms/request", "spread over workers %",
    ]  # fmt: skip
    notes = [
        f"Loads: {', '.join(f'{name} {count} at once' for name, count in LOADS.items())}. "
        "The spread is std/mean of the answers by worker."
    ]
    for one in results:
        if shares := one.get("after_joins"):
            counts = ", ".join(f"{name} {count}" for name, count in shares.items())
            notes.append(f"Answers after w4 and w5 were there: {counts}.")
    return "\n\n".join([table(head, rows_of(results)), *notes])


def main() -> int:
    """Measure and print; exit code 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500, help="of each load")
    parser.add_argument("--only", default="light,medium,heavy,bytes,joins", help="some of these")
    given = parser.parse_args()
    phases = plan(given.requests)
    names = given.only.split(",")
    if unknown := set(names) - set(phases):
        parser.error(f"no load {', '.join(unknown)}; there are {', '.join(phases)}")
    with tempfile.TemporaryDirectory() as folder:
        results, events = asyncio.run(measure([phases[name] for name in names], Path(folder)))
    publish("infer", "Inference of 3 MB bodies behind a ring", body_of(results), results)
    runs = {"phases": results, "environment": environment("bench.infer")}
    (RESULTS / "infer_runs.json").write_text(json.dumps(runs))
    (RESULTS / "infer_events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    return 1 if any(one["failed_requests"] for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compares one node doing everything with several, measured in one run.

Shell: starts and stops what it measures; prints a table and writes
`comparison_results_<time>.json`, which `tools.report` draws. Exit codes: 1 if a request failed,
130 when stopped by Ctrl-C.

    python -m tools.compare
    python -m tools.compare --rows batches,kept,hedging      each optimisation switched off
    python -m tools.compare --row "answers kept: roles.*.cache.items_max=1000"
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tools import place, stop
from tools.compare.measure import Plan, compare
from tools.compare.sides import SETS, Side, sides_of
from tools.fleet import NodeDied
from tools.loadgen.machine import environment
from tools.loadgen.plan import Load
from tools.loadgen.summary import is_thin

ENDED = "stopped, and the nodes with it; nothing is written"
TABLE_WIDTH = 190  # a table that is cut is worse than one that a narrow terminal folds
EXAMPLES = """examples:
  python -m tools.compare
  python -m tools.compare --requests 64 --concurrent 1,8 --rounds 3
  python -m tools.compare --rows batches,kept,hedging
  python -m tools.compare --rows protocols --only search
  python -m tools.compare --row "batches of 4: roles.*.batch.items_max=4"
"""


def main() -> int:
    """Compare, print, write."""
    parser = arguments()
    chosen = parser.parse_args()
    try:
        sides, plan = prepare(chosen)
        if chosen.out:
            place.check(chosen.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    console = Console(highlight=False, width=max(TABLE_WIDTH, Console().width))
    try:
        results = asyncio.run(compare(sides, plan, lambda text: console.print(text, style="dim")))
    except (NodeDied, TimeoutError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except asyncio.CancelledError:  # by SIGTERM
        console.print(ENDED, style="red")
        return stop.STOPPED
    show(console, results)
    path = chosen.out or Path(f"comparison_results_{datetime.now(UTC):%Y%m%d_%H%M%S}.json")
    path.write_bytes(orjson.dumps(document(results), option=orjson.OPT_INDENT_2))
    console.print(f"written to {path}; draw it with  python -m tools.report {path}")
    return 1 if any(one["failed_requests"] for one in results) else 0


def arguments() -> argparse.ArgumentParser:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description="Measure one node against several, side by side.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", type=Path, default=Path("config"), help="folder of topology.toml, n0.toml …")
    add("--pipeline", default="ask", help="which pipeline is asked (ask)")
    add("--requests", type=int, default=48, help="per load and round (48)")
    add("--concurrent", default="1,8", help="in flight at once, one load for each (1,8)")
    add("--rounds", type=int, default=2, help="how often each side is started (2)")
    add("--threads", type=int, default=1, help="compute threads of each role (1)")
    add("--rows", default="", help=f"more sides that are known: {', '.join(SETS)}")
    add("--row", action="append", default=[], metavar="NAME: KEY=VALUE",
        help="one more side: the whole mesh with these keys of the topology changed")  # fmt: skip
    add("--only", default="", help="measure only sides whose names have one of these in them")
    add("--out", type=Path, help="JSON file (comparison_results_<time>.json)")
    return parser


def prepare(chosen: argparse.Namespace) -> tuple[list[Side], Plan]:
    """Turn the command line into sides and what is done to them.

    Raises:
        ValueError: something does not fit; the message says what.
        OSError: a file cannot be read.
    """
    topology = tomllib.loads((chosen.config / "topology.toml").read_text())
    configs = sorted(chosen.config.glob("n[0-9].toml"))
    names = [tomllib.loads(config.read_text())["name"] for config in configs]
    if not names:
        raise ValueError(f"no n0.toml, n1.toml … in {chosen.config}")
    sets = [one for one in chosen.rows.split(",") if one]
    sides = sides_of(topology, names, chosen.row, sets)
    wanted = chosen.only.split(",")
    sides = [one for one in sides if any(name in one.name for name in wanted)]
    counts = [int(one) for one in chosen.concurrent.split(",")]
    loads = [
        Load(f"{count} at once", requests=chosen.requests, concurrent=count) for count in counts
    ]
    problems = [text for load in loads for text in load.problems()]
    if problems or not sides:
        raise ValueError("; ".join(problems) or f"no side has {chosen.only!r} in its name")
    folder = Path(f"var/compare/{os.getpid()}").absolute()  # two may run at once
    return sides, Plan(chosen.pipeline, loads, max(1, chosen.rounds), chosen.threads, folder)


def show(console: Console, results: list[dict[str, Any]]) -> None:
    """Print the table of all sides and loads."""
    table = Table(title="Measured in this run", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("side", no_wrap=True)
    for title in ("at once", "answers/s", "min-max", "of", "p50 ms", "p95 ms", "p99 ms",
                  "failed", "memory MB", "CPU ms", "edge kB", "equal"):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    for one in results:
        latency = one["latency"] or dict.fromkeys(("median", "p95", "p99"), 0.0)
        table.add_row(
            one["side"],
            str(one["concurrent"]),
            f"{one['throughput_median']:.2f}",
            f"{one['throughput_min']:.2f}-{one['throughput_max']:.2f}",
            "" if one["of"] is None else f"{one['of']:.2f}",
            f"{latency['median']:.0f}",
            f"{latency['p95']:.0f}",
            "" if is_thin(one["successful_requests"], 0.99) else f"{latency['p99']:.0f}",
            str(one["failed_requests"]),
            " + ".join(f"{count / 1e6:.0f}" for count in one["memory_bytes"].values()),
            f"{sum(node['cpu_ms_per_request'] for node in one['nodes'].values()):.0f}",
            f"{sum(one['edge_bytes_per_request'].values()) / 1e3:.1f}",
            f"{one['answers_equal']}/{one['answers_compared']}",
        )
    console.print(table)
    console.print(
        "of: answers/s against the same load of 'distributed', or of the other search; "
        "memory: of each node; CPU, edge: a request; equal: answers as the first side gave them",
        style="dim",
    )
    for one in results:
        for reason in one["invalid"]:
            console.print(f"{one['name']}: INVALID: {reason}", style="red")


def document(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the file's content: all sides, and the two that its readers look for by name."""
    last = {one["side"]: one for one in results}
    return {
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: _contract(last[name]) for name in ("monolithic", "distributed") if name in last},
        "sides": results,
        "environment": environment("tools.compare"),
    }


def _contract(one: dict[str, Any]) -> dict[str, Any]:
    """Return one side in the keys and the seconds of earlier comparison files."""
    latency = one["latency"] or dict.fromkeys(("mean", "min", "max"), 0.0)
    return {
        "total_requests": one["total_requests"],
        "successful_requests": one["successful_requests"],
        "failed_requests": one["failed_requests"],
        "total_time": one["total_time"],
        "avg_latency": latency["mean"] / 1000.0,
        "min_latency": latency["min"] / 1000.0,
        "max_latency": latency["max"] / 1000.0,
        "throughput": one["throughput"],
        "results": one["results"],
    }


if __name__ == "__main__":
    stop.run(main, ENDED)

"""Measures a mesh, or any server of the same routes, from outside.

Shell: reads the command line or a scenario file, runs each phase, prints and writes what
was measured. Exit codes: 0 all answered, 1 some failed, 2 wrong use, 3 the run is invalid,
130 stopped by Ctrl-C.

    python -m tools.loadgen --requests 100 --concurrent 8
    python -m tools.loadgen --kind chat --stream --rate 4 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson

from tools import place, stop
from tools.loadgen import phase
from tools.loadgen.crew import Crew
from tools.loadgen.kind import KINDS, What
from tools.loadgen.machine import environment
from tools.loadgen.plan import ARRIVALS, Load
from tools.loadgen.show import block

EXAMPLES = """examples:
  python -m tools.loadgen --requests 100 --concurrent 8
  python -m tools.loadgen --kind infer --requests 5000 --concurrent 50 --target http://127.0.0.1:8000
  python -m tools.loadgen --kind chat --stream --rate 4 --seconds 30
  python -m tools.loadgen --scenario bench/mixed.toml --processes 2
"""


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file with several kinds of requests in a mix, and several phases."""

    phase: list[Load]
    request: list[What] = []
    target: list[str] = []


def main() -> int:
    """Run the load generator."""
    parser = arguments()
    chosen = parser.parse_args()
    try:
        crew, loads = plan(chosen)
        place.check(Path(chosen.out))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    results = asyncio.run(measure(crew, loads, warmup=chosen.warmup))
    facts = environment(
        "tools.loadgen", targets=crew.targets, seed=crew.seed, processes=crew.processes
    )
    document = {**results[-1], "phases": results, "environment": facts}
    Path(chosen.out).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    print(f"written to {chosen.out}")
    if any(one["invalid"] for one in results):
        return 3
    return 1 if any(one["failed_requests"] for one in results) else 0


def arguments() -> argparse.ArgumentParser:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.loadgen",
        description="Send requests to a mesh and measure its answers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--target", action="append", default=[], metavar="URL", help="a node; may be repeated")
    add("--kind", choices=sorted(KINDS), default="pipeline", help="what to send (pipeline)")
    add("--pipeline", default="ask", help="with --kind pipeline or lines: which (ask)")
    add("--peer", default="", metavar="HOST:PORT", help="with --kind lines: listen.peer of a node")
    add("--path", default="", help="with --kind post: where to")
    add("--model", default="", help="with --kind chat or infer: which")
    add("--questions", metavar="FILE", help="one question, or one JSON object, per line")
    add("--stream", action="store_true", help="ask for the answer in pieces, and time them")
    add("--shape", default="1,224,224,3", help="with --kind infer: of the tensor")
    add("--encoding", choices=("json", "octet-stream"), default="json", help="of the tensor")
    add("--tokens", type=int, default=64, help="with --kind chat: at most so many (64)")
    add("--requests", type=int, default=0, help="how many (100 in a closed loop)")
    add("--concurrent", type=int, default=8, help="closed loop: in flight at once (8)")
    add("--rate", type=float, default=0.0, help="open loop: starts per second, on a schedule")
    add("--seconds", type=float, default=0.0, help="how long")
    add("--arrival", choices=ARRIVALS, default="poisson", help="open loop: gaps between starts")
    add("--warmup", type=int, default=0, help="requests before that, not counted (0)")
    add("--scenario", metavar="FILE", help="phases and a mix of requests, as TOML")
    add("--processes", type=int, default=1, help="load processes (1)")
    add("--timeout", type=float, default=300.0, help="seconds until a request has failed (300)")
    add("--in-flight-max", type=int, default=10_000, help="open loop: per process (10000)")
    add("--key", default=os.environ.get("MESH_API_KEY", ""), help="API key ($MESH_API_KEY)")
    add("--seed", type=int, default=1, help="of schedule, mix and tensors (1)")
    add("--out", default="benchmark_results.json", help="JSON file of the results")
    return parser


def plan(chosen: argparse.Namespace) -> tuple[Crew, list[Load]]:
    """Turn the command line into who sends what, and when.

    Raises:
        ValueError: something does not fit; the message says what.
        OSError: a file cannot be read.
    """
    loads, mix, targets = [_load_of(chosen)], [_what_of(chosen)], chosen.target
    if chosen.scenario:
        document = tomllib.loads(Path(chosen.scenario).read_text())
        scenario = msgspec.convert(document, Scenario)
        loads, mix = scenario.phase, scenario.request or mix
        targets = targets or scenario.target
    problems = [f"{load.name}: {text}" for load in loads for text in load.problems()]
    problems += [f"no kind {one.kind!r}" for one in mix if one.kind not in KINDS]
    problems += ["lines want a --peer" for one in mix if one.kind == "lines" and not one.peer]
    problems += [f"expected http://HOST:PORT, not {one!r}" for one in targets if not _is_url(one)]
    if chosen.timeout <= 0 or chosen.processes < 1:
        problems.append("timeout and processes are more than 0")
    if not Path(chosen.out).absolute().parent.is_dir():
        problems.append(f"there is no folder for {chosen.out}")
    if problems:
        raise ValueError("; ".join(problems))
    return Crew(
        targets=[one.rstrip("/") for one in targets or ["http://127.0.0.1:8000"]],
        mix=mix,
        processes=chosen.processes,
        timeout_s=chosen.timeout,
        in_flight_max=chosen.in_flight_max,
        seed=chosen.seed,
        headers={"Authorization": f"Bearer {chosen.key}"} if chosen.key else {},
    ), loads


def _load_of(chosen: argparse.Namespace) -> Load:
    requests = chosen.requests or (0 if chosen.rate or chosen.seconds else 100)
    return Load(
        chosen.kind, requests, chosen.concurrent, chosen.rate, chosen.seconds, chosen.arrival
    )


def _what_of(chosen: argparse.Namespace) -> What:
    return What(
        chosen.kind,
        pipeline=chosen.pipeline,
        path=chosen.path,
        inputs=_inputs_of(chosen),
        stream=chosen.stream,
        shape=_shape_of(chosen.shape),
        encoding=chosen.encoding,
        model=chosen.model,
        tokens_max=chosen.tokens,
        peer=chosen.peer,
    )


def _is_url(text: str) -> bool:
    url = urlsplit(text)
    return url.scheme in ("http", "https") and bool(url.hostname)


def _shape_of(text: str) -> tuple[int, ...]:
    sides = text.split(",")
    if not all(side.strip().isdecimal() for side in sides):
        raise ValueError(f"shape is whole numbers such as 1,224,224,3, not {text!r}")
    return tuple(map(int, sides))


def _inputs_of(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Read the questions file: a line is a question, or a whole body where it starts with {."""
    if not chosen.questions:
        return []
    lines = [line.strip() for line in Path(chosen.questions).read_text().splitlines()]
    asked = [line for line in lines if line and not line.startswith("#")]
    if chosen.kind == "chat":
        return [{"messages": [{"role": "user", "content": one}]} for one in asked]
    return [orjson.loads(one) if one.startswith("{") else {"query": one} for one in asked]


async def measure(crew: Crew, loads: list[Load], *, warmup: int = 0) -> list[dict[str, Any]]:
    """Run the phases one after the other, print each and return their results."""
    if warmup:
        await phase.run(crew, Load("warm-up", warmup, min(8, warmup)))
    results = []
    for load in loads:
        results.append(await phase.measure(crew, load))
        print(block(results[-1]), end="\n\n")
    return results


if __name__ == "__main__":
    stop.run(main, "stopped; nothing is written")

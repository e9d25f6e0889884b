"""Starts one side after the other, puts the same load on each, and stops it again.

Shell: real processes on this machine, on free ports, in turns: first to last, then last to
first, so that whatever else the machine does meets all sides alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from mesh.client import Client
from mesh.errors import MeshError
from tools import fleet
from tools.compare.sides import Side, toml
from tools.loadgen.crew import Crew
from tools.loadgen.kind import QUESTIONS, What
from tools.loadgen.phase import measure_with
from tools.loadgen.plan import Load
from tools.loadgen.sample import Sample
from tools.loadgen.summary import summarize

ANSWER_S_MAX = 120.0


class Plan(msgspec.Struct, frozen=True):
    """What is done to every side."""

    pipeline: str
    loads: list[Load]
    rounds: int
    threads: int
    folder: Path
    timeout_s: float = ANSWER_S_MAX


class Taken(msgspec.Struct):
    """What the rounds of one side gave, by load."""

    answers: dict[str, Any] = {}
    results: dict[str, list[dict[str, Any]]] = {}
    samples: dict[str, list[Sample]] = {}
    walls_s: dict[str, float] = {}


async def compare(
    sides: Sequence[Side], plan: Plan, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure all sides and return a result for each side and load."""
    taken = {side.name: Taken() for side in sides}
    for turn in range(plan.rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            say(f"round {turn + 1} of {plan.rounds}: {side.name}")
            await _measure_side(side, plan, taken[side.name])
    found = []
    for side in sides:
        first = next(one for one in sides if one.pipeline == side.pipeline)
        reference = taken[first.name].answers
        found += [_joined(side, load, taken[side.name], reference) for load in plan.loads]
    return proportioned(sides, found)


def proportioned(sides: Sequence[Side], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results, each with its throughput over that of the side it is set against."""
    rates = {(one["side"], one["concurrent"]): one["throughput_median"] for one in results}
    against = {side.name: side.against for side in sides}
    return [
        {**one, "of": one["throughput_median"] / base if base else None}
        for one in results
        for base in [rates.get((against[one["side"]], one["concurrent"]))]
    ]


def write(side: Side, plan: Plan) -> list[fleet.Node]:
    """Write a side's files and return its nodes, on free ports."""
    folder = plan.folder / side.name.replace(" ", "-").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "topology.toml").write_text(toml(side.topology))
    configs = []
    for name in side.nodes:
        configs.append(folder / f"{name}.toml")
        configs[-1].write_text(
            f'name = "{name}"\ntopology = "topology.toml"\n[compute]\nthreads = {plan.threads}\n'
        )
    nodes, _ = fleet.nodes_of(configs, folder)
    fleet.move(nodes, folder)
    return nodes


async def _measure_side(side: Side, plan: Plan, taken: Taken) -> None:
    nodes = await asyncio.to_thread(write, side, plan)
    async with fleet.running(nodes):
        await fleet.wait_ready(nodes)
        pipeline = side.pipeline or plan.pipeline
        taken.answers = await _warm_up(nodes[0].url, pipeline, plan.timeout_s)
        kind = "lines" if side.is_by_lines else "pipeline"
        what = What(kind, pipeline=pipeline, peer=nodes[0].peer)
        crew = Crew(targets=[nodes[0].url], mix=[what], timeout_s=plan.timeout_s)
        for load in plan.loads:
            more = msgspec.structs.replace(load, requests=load.requests * side.times)
            result, outcome = await measure_with(crew, more)
            before_s = taken.walls_s.get(load.name, 0.0)
            taken.results.setdefault(load.name, []).append(result)
            taken.samples.setdefault(load.name, []).extend(
                _later(one, before_s) for one in outcome.samples
            )
            taken.walls_s[load.name] = before_s + outcome.wall_s
        for node in nodes:
            node.check()


async def _warm_up(url: str, pipeline: str, timeout_s: float) -> dict[str, Any]:
    """Ask each question once, alone: that warms every stage, and the answers are kept."""
    answers: dict[str, Any] = {}
    async with Client(url, deadline_s=timeout_s) as mesh:
        for question in QUESTIONS:
            try:
                answers[question] = said((await mesh.ask(pipeline, query=question)).fields)
            except MeshError as error:
                answers[question] = repr(error)
    return answers


def said(value: Any) -> Any:
    """Return an answer without its scores: sums in another order differ in their last digits."""
    if isinstance(value, dict):
        return {key: said(inner) for key, inner in value.items() if key != "score"}
    return [said(inner) for inner in value] if isinstance(value, list) else value


def _later(sample: Sample, by_s: float) -> Sample:
    """Return a sample as if its round had begun later."""
    return msgspec.structs.replace(
        sample,
        intended_s=sample.intended_s + by_s,
        sent_s=sample.sent_s + by_s,
        end_s=sample.end_s + by_s,
    )


def _joined(side: Side, load: Load, taken: Taken, reference: dict[str, Any]) -> dict[str, Any]:
    """Return all rounds of one side and load as one result."""
    results, samples = taken.results[load.name], taken.samples[load.name]
    throughputs = [one["throughput"] for one in results]
    nodes = results[-1]["nodes"]
    return {
        **summarize(load, samples, taken.walls_s[load.name]),
        "name": f"{side.name}, {load.concurrent} at once",
        "side": side.name,
        "concurrent": load.concurrent,
        "began_at": results[0]["began_at"],
        "invalid": sorted({reason for one in results for reason in one["invalid"]}),
        "nodes": nodes,
        "watch": results[-1]["watch"],
        "throughput_median": median(throughputs),
        "throughput_min": min(throughputs),
        "throughput_max": max(throughputs),
        "memory_bytes": {name: one["rss_bytes_max"] for name, one in nodes.items()},
        "edge_bytes_per_request": {
            f"{name} to {other}": count
            for name, one in nodes.items()
            for other, count in one["sent_bytes_per_request"].items()
        },
        "answers_equal": sum(
            taken.answers.get(question) == answer for question, answer in reference.items()
        ),
        "answers_compared": len(reference),
        "results": [
            {"latency": one.latency_s, "success": not one.failure, "failure": one.failure}
            for one in samples
        ],
    }

"""Draws runs with matplotlib, one function per picture.

Shell: writes PNG files. Every axis has a unit, every picture says how many requests it
rests on, and no colour alone carries a meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tools.report import look, panels
from tools.report.runs import Run, percentiles

RUNS_MAX = 8  # more lines in one picture are a knot
BARS_MAX = 24  # more bars need a page of their own
LOG_FROM = 30.0  # times between the least and the most: on a plain axis the least would vanish
BINS_MIN, BINS_MAX = 8, 60
BARS_LABELLED_FULLY = 20  # more in one picture leave no room for a sign behind each number


def draw_all(runs: Sequence[Run], folder: Path) -> list[tuple[str, str]]:
    """Draw every picture that the runs have data for; return (file name, caption) of each."""
    runs = [run for run in runs if run["total_requests"]][:BARS_MAX]
    runs = [{**run, "place": place} for place, run in enumerate(runs)]
    few = chosen(runs)
    made = []
    with mpl.rc_context(look.SETTINGS):
        for name, caption, draw in PICTURES:
            figure = draw(runs if draw is performance_comparison else few)
            if len(few) < len(runs) and draw is not performance_comparison:
                caption = f"{caption} {len(few)} of the {len(runs)} runs, the busiest."
            if figure is not None:
                figure.savefig(folder / name, metadata={"Software": None})
                plt.close(figure)
                made.append((name, caption))
    return made


def chosen(runs: Sequence[Run]) -> list[Run]:
    """Return as many runs as fit into one picture: of a comparison, those of its largest load."""
    if len(runs) <= RUNS_MAX:
        return list(runs)
    largest = max(run.get("concurrent", 0) for run in runs)
    return [run for run in runs if run.get("concurrent", 0) == largest][:RUNS_MAX]


def latency_distribution(runs: Sequence[Run]) -> Any:
    """Left: how often each latency came. Right: the percentiles up to the last that counts."""
    runs = [run for run in runs if run["histogram"]]
    if not runs:
        return None
    figure = plt.figure(figsize=(look.WIDTH_IN, max(3.6, 0.75 * len(runs) + 1.6)))
    grid = figure.add_gridspec(len(runs), 2)
    _ridges(figure, grid, runs)
    right = figure.add_subplot(grid[:, 1])
    for run in runs:
        shares, latencies = _spectrum(run)
        right.plot([1.0 / (1.0 - share) for share in shares], latencies, **look.look_of(run))
    right.set(xscale="log", yscale="log", xlabel="percentile", ylabel="latency (ms, logarithmic)")
    ticks = {1.0: "0", 2.0: "50", 10.0: "90", 100.0: "99", 1000.0: "99.9", 10000.0: "99.99"}
    right.xaxis.set_major_locator(FixedLocator(list(ticks)))
    right.xaxis.set_minor_locator(NullLocator())
    right.xaxis.set_major_formatter(FuncFormatter(lambda x, _: ticks.get(round(x, 6), "")))
    look.plain_log(right.yaxis)
    figure.suptitle("Latency, from the intended start to the end of the answer")
    look.legend(figure, right.get_lines(), [look.label(run) for run in runs])
    return figure


def _ridges(figure: Any, grid: Any, runs: Sequence[Run]) -> None:
    """Draw a small histogram for each run, one under the other on one axis of latencies."""
    first = None
    for row, run in enumerate(runs):
        first = place = figure.add_subplot(grid[row, 0], sharex=first)
        style = look.look_of(run)
        values, counts = _bins(run["histogram"])
        place.step(values, counts, where="mid", **style)
        place.fill_between(values, counts, step="mid", color=style["color"], alpha=0.2, linewidth=0)
        place.set(xscale="log", ylim=(0, max(counts) * 1.15))
        place.yaxis.set_major_locator(FixedLocator([0, round(max(counts))]))
        place.tick_params(axis="x", which="both", labelbottom=row == len(runs) - 1)
        place.grid(visible=False, axis="y")
    assert first is not None
    first.set_xlabel("latency (ms, logarithmic)")
    look.plain_log(first.xaxis)
    figure.supylabel("share of the requests (%)", fontsize=10)


def node_distribution(runs: Sequence[Run]) -> Any:
    """How the work fell to the nodes."""
    runs = [run for run in runs if run["node_distribution"]]
    if not runs:
        return None
    figure, axes = plt.subplots(figsize=(look.WIDTH_IN, 4.5))
    nodes = sorted({node for run in runs for node in run["node_distribution"]})
    width = 0.8 / len(runs)
    shown = []
    for at, run in enumerate(runs):
        total = sum(run["node_distribution"].values())
        shares = [100 * run["node_distribution"].get(node, 0) / total for node in nodes]
        places = [x + (at - (len(runs) - 1) / 2) * width for x in range(len(nodes))]
        bars = axes.bar(places, shares, width * 0.92, color=look.look_of(run)["color"])
        crowded = len(runs) * len(nodes) > BARS_LABELLED_FULLY
        words = [f"{share:.0f}" if crowded else f"{share:.0f} %" for share in shares]
        axes.bar_label(bars, words, fontsize=7 if crowded else 8)
        shown.append(bars)
    axes.set_xticks(range(len(nodes)), nodes)
    axes.set(
        ylabel="share of a run's answers (%)",
        title="Work by node (in a pipeline, of the answers of its stages)",
    )
    axes.grid(visible=False, axis="x")
    look.legend(figure, shown, [look.label(run) for run in runs])
    return figure


def performance_comparison(runs: Sequence[Run]) -> Any:
    """Throughput and latency of all runs beside each other."""
    runs = [run for run in runs if run["latency"]]
    if not runs:
        return None
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(look.WIDTH_IN, max(2.8, 0.6 * len(runs) + 1.6)), sharey=True
    )
    rows = list(range(len(runs)))
    colours = [look.look_of(run)["color"] for run in runs]
    bars = left.barh(rows, [run["throughput"] for run in runs], 0.6, color=colours)
    left.bar_label(bars, [f" {look.number(run['throughput'])}" for run in runs], fontsize=9)
    left.set(xlabel="answers per second", title="Throughput")
    left.margins(x=0.15)
    rates = [run["throughput"] for run in runs if run["throughput"]]
    medians = [run["latency"]["median"] for run in runs]
    if max(rates) > LOG_FROM * min(rates):
        left.set(xscale="log", xlabel="answers per second (logarithmic)")
        left.set_xlim(left=min(rates) / 2, right=max(rates) * 4)
    left.set_yticks(rows, [look.label(run) for run in runs])
    left.set_ylim(len(runs) - 0.4, -0.7)
    for row, run in enumerate(runs):
        times = run["latency"]
        right.plot([times["median"], times["p99"]], [row, row], "-", color=colours[row])
        for key, mark in (("median", "o"), ("p95", "|"), ("p99", "D")):
            right.plot(times[key], row, mark, color=colours[row], markersize=8)
        right.annotate(
            look.number(times["median"]),
            (times["median"], row),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    right.set(xlabel="latency (ms): ● p50, | p95, ◆ p99", title="Latency")
    if max(medians) > LOG_FROM * min(medians):
        right.set(xscale="log")
        look.plain_log(right.xaxis)
    else:
        right.set_xlim(left=0)
    if left.get_xscale() == "log":
        look.plain_log(left.xaxis)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
    return figure


Draw = Callable[[Sequence[Run]], Any]
PICTURES: tuple[tuple[str, str, Draw], ...] = (
    (
        "performance_comparison.png",
        "Throughput and latency of every run, measured together.",
        performance_comparison,
    ),
    (
        "latency_distribution.png",
        "Left: how often each latency came. Right: the percentiles; the line ends where fewer "
        "than ten requests were slower.",
        latency_distribution,
    ),
    (
        "timeline.png",
        "Good answers and latency by the moment at which each request was meant to start.",
        panels.timeline,
    ),
    ("stages.png", "Mean time of each stage: waiting, network, computing.", panels.stage_waterfall),
    ("batch_sizes.png", "How many items of each role ran together.", panels.batch_sizes),
    ("node_distribution.png", "Which nodes gave the answers.", node_distribution),
    ("memory.png", "Resident memory of every node over the run.", panels.memory),
)


def _bins(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Join the fine buckets, into more for more requests; return middles in ms, shares in %."""
    total = sum(count for _, count in rows)
    steps_max = min(BINS_MAX, max(BINS_MIN, 2 * sqrt(total)))
    low, high = rows[0][0], rows[-1][0] * 1.02
    width = max((high / low) ** (1.0 / steps_max), 1.016)
    counts: Counter[int] = Counter()
    for floor_s, count in rows:
        step = 0
        while low * width ** (step + 1) <= floor_s:
            step += 1
        counts[step] += int(count)
    steps = range(-1, max(counts) + 2)
    middles = [low * width ** (step + 0.5) * 1000.0 for step in steps]
    return middles, [100.0 * counts[step] / total for step in steps]


def _spectrum(run: Run) -> tuple[list[float], list[float]]:
    """Return shares and latencies up to the last percentile with ten requests beyond it."""
    count = run["successful_requests"]
    last = max(0.5, 1.0 - 10.0 / count) if count else 0.5
    shares = [0.0]
    while (share := 1.0 - (1.0 - shares[-1]) * 0.9) < last:
        shares.append(share)
    shares.append(last)
    return shares, percentiles(run["histogram"], shares)

"""Draws runs with matplotlib, one function per picture.

Shell: writes PNG files. Every axis has a unit, every picture says how many requests it
rests on, and no colour alone carries a meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from tools.report.runs import Run, percentiles

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colours, told apart by colour-blind eyes too; yellow is left out for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
PARTS = (
    ("queued_ms", "waited", "#E69F00"),
    ("network_ms", "network", "#56B4E9"),
    ("ran_ms", "computed", "#0072B2"),
)
SETTINGS = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}
WIDE = (8.0, 4.5)
RUNS_MAX = 8  # more lines in one picture are a knot
BINS = 60


def draw_all(
    runs: Sequence[Run], folder: Path, events: Sequence[tuple[float, str]]
) -> list[tuple[str, str]]:
    """Draw every picture that the runs have data for; return (file name, caption) of each."""
    runs = [run for run in runs if run["total_requests"]][:RUNS_MAX]
    made = []
    with mpl.rc_context(SETTINGS):
        for name, caption, draw in PICTURES:
            figure = draw(runs, events)
            if figure is not None:
                figure.savefig(folder / name, metadata={"Software": None})
                plt.close(figure)
                made.append((name, caption))
    return made


def latency_distribution(runs: Sequence[Run], _events: Any) -> Any:
    """Left: how often each latency came. Right: the percentiles up to the last that counts."""
    runs = [run for run in runs if run["histogram"]]
    if not runs:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.0, 4.5))
    for number, run in enumerate(runs):
        look = _look(number)
        values, counts = _bins(run["histogram"])
        left.step(values, counts, where="mid", label=_label(run), **look)
        shares, latencies = _spectrum(run)
        right.plot([1.0 / (1.0 - share) for share in shares], latencies, **look)
    left.set(xscale="log", xlabel="latency (ms, logarithmic)", ylabel="share of requests (%)")
    left.set_ylim(bottom=0)
    left.legend(fontsize=8)
    right.set(xscale="log", yscale="log", xlabel="percentile", ylabel="latency (ms, logarithmic)")
    ticks = {1.0: "0", 2.0: "50", 10.0: "90", 100.0: "99", 1000.0: "99.9", 10000.0: "99.99"}
    right.xaxis.set_major_locator(FixedLocator(list(ticks)))
    right.xaxis.set_minor_locator(NullLocator())
    right.xaxis.set_major_formatter(FuncFormatter(lambda x, _: ticks.get(round(x, 6), "")))
    _plain_log(left.xaxis)
    _plain_log(right.yaxis)
    figure.suptitle("Latency, from the intended start to the end of the answer")
    return figure


def node_distribution(runs: Sequence[Run], _events: Any) -> Any:
    """How the work fell to the nodes."""
    runs = [run for run in runs if run["node_distribution"]]
    if not runs:
        return None
    figure, axes = plt.subplots(figsize=WIDE)
    nodes = sorted({node for run in runs for node in run["node_distribution"]})
    width = 0.8 / len(runs)
    for number, run in enumerate(runs):
        counts = [run["node_distribution"].get(node, 0) for node in nodes]
        places = [x + (number - (len(runs) - 1) / 2) * width for x in range(len(nodes))]
        bars = axes.bar(
            places, counts, width * 0.92, label=_label(run), color=_look(number)["color"]
        )
        total = sum(counts)
        axes.bar_label(bars, [f"{100 * count / total:.0f} %" for count in counts], fontsize=8)
    axes.set_xticks(range(len(nodes)), nodes)
    axes.set(ylabel="answers (stage answers in a pipeline)", title="Work by node")
    axes.grid(visible=False, axis="x")
    axes.legend(fontsize=8)
    return figure


def performance_comparison(runs: Sequence[Run], _events: Any) -> Any:
    """Throughput and latency of all runs beside each other."""
    runs = [run for run in runs if run["latency"]]
    if not runs:
        return None
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.0, max(2.8, 0.6 * len(runs) + 1.6)), sharey=True
    )
    rows = list(range(len(runs)))
    colours = [_look(number)["color"] for number in rows]
    bars = left.barh(rows, [run["throughput"] for run in runs], 0.6, color=colours)
    left.bar_label(bars, [f" {_number(run['throughput'])}" for run in runs], fontsize=9)
    left.set(xlabel="answers per second", title="Throughput")
    left.margins(x=0.15)
    left.set_yticks(rows, [_label(run) for run in runs])
    left.invert_yaxis()
    for row, run in enumerate(runs):
        times = run["latency"]
        right.plot([times["median"], times["p99"]], [row, row], "-", color=colours[row])
        for key, mark in (("median", "o"), ("p95", "|"), ("p99", "D")):
            right.plot(times[key], row, mark, color=colours[row], markersize=8)
        right.annotate(
            _number(times["median"]),
            (times["median"], row),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    right.set(xlabel="latency (ms): circle p50, bar p95, diamond p99", title="Latency")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
    return figure


def timeline(runs: Sequence[Run], events: Sequence[tuple[float, str]]) -> Any:
    """Answers, failures and latency by the second of the intended start, with marked events."""
    runs = [run for run in runs if len(run["timeline"]) > 1]
    if not runs:
        return None
    figure, (above, below) = plt.subplots(2, 1, figsize=(8.0, 5.5), sharex=True)
    for number, run in enumerate(runs):
        look, rows = _look(number), run["timeline"]
        times = [row["at_s"] for row in rows]
        step_s = times[1] - times[0]
        good = [(row["started"] - row["failed"]) / step_s for row in rows]
        above.plot(times, good, label=_label(run), drawstyle="steps-post", **look)
        failed = [(row["at_s"], row["failed"] / step_s) for row in rows if row["failed"]]
        if failed:
            above.plot(*zip(*failed, strict=True), "x", color=look["color"], label="failed")
        seen = [row for row in rows if row["started"] > row["failed"]]
        below.plot([row["at_s"] for row in seen], [row["p50_ms"] for row in seen], **look)
        below.fill_between(
            [row["at_s"] for row in seen],
            [row["p50_ms"] for row in seen],
            [row["p99_ms"] for row in seen],
            color=look["color"],
            alpha=0.15,
            linewidth=0,
        )
    for at_s, text in events:
        for axes in (above, below):
            axes.axvline(at_s, color="#555555", linewidth=1.0, linestyle=":")
        above.annotate(text, (at_s, 1.0), (2, -2), xycoords=("data", "axes fraction"),
                       textcoords="offset points", rotation=90, va="top", fontsize=8)  # fmt: skip
    above.set(ylabel="good answers per second", title="Over time, by the intended start")
    above.set_ylim(bottom=0)
    above.legend(fontsize=8)
    below.set(xlabel="time (s)", ylabel="latency (ms): p50, shade to p99")
    if any(run["latency"] for run in runs):  # nothing answered: nothing to put on that axis
        below.set_yscale("log")
        _plain_log(below.yaxis)
    return figure


def batch_sizes(runs: Sequence[Run], _events: Any) -> Any:
    """How many items ran together, by role."""
    sizes = [(run, _batches(run)) for run in runs]
    sizes = [(run, found) for run, found in sizes if found]
    if not sizes:
        return None
    roles = sorted({role for _, found in sizes for role in found})
    figure, axes = plt.subplots(
        1, len(roles), figsize=(max(4.0, 2.4 * len(roles)), 3.6), sharey=True, squeeze=False
    )
    for place, role in zip(axes[0], roles, strict=True):
        for number, (_, found) in enumerate(sizes):
            counts = found.get(role, Counter())
            items = sum(size * count for size, count in counts.items()) or 1
            share = [100.0 * size * counts[size] / items for size in sorted(counts)]
            place.plot(sorted(counts), share, marker="o", **_look(number))
        place.set(title=role, xlabel="batch size (items)")
        place.set_ylim(0, 105)
        place.set_xlim(left=0)
        place.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set_ylabel("share of the items (%)")
    lines = [axes[0][0].plot([], [], marker="o", **_look(n))[0] for n in range(len(sizes))]
    names = [_label(run) for run, _ in sizes]
    figure.legend(lines, names, fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle("Items that ran together")
    return figure


def stage_waterfall(runs: Sequence[Run], _events: Any) -> Any:
    """Where the time of a mean request goes: a bar per stage, in order, cut into its parts."""
    runs = [run for run in runs if run["stages"]]
    if not runs:
        return None
    heights = [len(run["stages"]) for run in runs]
    figure, axes = plt.subplots(
        len(runs), 1, figsize=(8.0, 0.8 + sum(0.32 * one + 0.8 for one in heights)),
        squeeze=False, gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for place, run in zip(axes[:, 0], runs, strict=True):
        names = [f"{one['name']} · {', '.join(sorted(one['nodes']))}" for one in run["stages"]]
        begins = [0.0] * len(names)
        for key, text, colour in PARTS:
            widths = [one[key] for one in run["stages"]]
            place.barh(names, widths, 0.7, left=begins, color=colour, label=text)
            begins = [begin + width for begin, width in zip(begins, widths, strict=True)]
        for row, total in enumerate(begins):
            place.annotate(
                f" {_number(total)} ms",
                (total, row),
                va="center",
                fontsize=8,
                annotation_clip=False,
            )
        place.invert_yaxis()
        place.margins(x=0.12)
        place.set_title(_label(run), fontsize=10)
        place.grid(visible=False, axis="y")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    axes[-1, 0].set_xlabel("mean time per request and stage (ms); parallel stages overlap")
    return figure


def memory(runs: Sequence[Run], _events: Any) -> Any:
    """Resident memory of each node while it was under load."""
    runs = [run for run in runs if run.get("watch")]
    if not runs:
        return None
    figure, axes = plt.subplots(figsize=WIDE)
    for number, run in enumerate(runs):
        by_node: dict[str, list[tuple[float, float]]] = {}
        for row in run["watch"]:
            by_node.setdefault(row["node"], []).append((row["at_s"], row["rss_bytes"] / 1e6))
        for node, points in sorted(by_node.items()):
            line = axes.plot(*zip(*points, strict=True), **_look(number))[0]
            axes.annotate(f" {node}", points[-1], fontsize=8, color=line.get_color(), va="center")
        axes.plot([], [], label=run["name"], **_look(number))
    axes.set(xlabel="time (s)", ylabel="resident memory (MB)", title="Memory by node")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.06)
    axes.legend(fontsize=8)
    return figure


Draw = Callable[[Sequence[Run], Sequence[tuple[float, str]]], Any]
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
        timeline,
    ),
    ("stages.png", "Mean time of each stage: waiting, network, computing.", stage_waterfall),
    ("batch_sizes.png", "How many items of each role ran together.", batch_sizes),
    ("node_distribution.png", "Which nodes gave the answers.", node_distribution),
    ("memory.png", "Resident memory of every node over the run.", memory),
)


def _look(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number % len(STYLES)],
    }


def _number(value: float) -> str:
    """Return a value with three digits that count, never as a power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _label(run: Run) -> str:
    return f"{run['name']} (n = {run['successful_requests']})"


def _plain_log(axis: Any) -> None:
    """Write the ticks of a logarithmic axis as plain numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axis.get_view_interval()
    if high < 30 * low:
        axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_tick_params(which="minor", labelsize=7)


def _bins(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Join the fine buckets into at most `BINS` steps; return middles in ms and shares in %."""
    total = sum(count for _, count in rows)
    low, high = rows[0][0], rows[-1][0] * 1.02
    width = max((high / low) ** (1.0 / BINS), 1.016)
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


def _batches(run: Run) -> dict[str, Counter[int]]:
    """Return how often each batch size came, by role, over all nodes."""
    found: dict[str, Counter[int]] = {}
    for node in run.get("nodes", {}).values():
        for role, sizes in node.get("batch_sizes", {}).items():
            counts = found.setdefault(role, Counter())
            counts.update({int(size): count for size, count in sizes.items()})
    return found

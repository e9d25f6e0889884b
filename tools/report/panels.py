"""Draws what needs a panel of its own for each run or role: time, stages, batches, memory.

Shell: matplotlib figures; `plots` writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt

from tools.report import look
from tools.report.runs import Run

PARTS = (
    ("queued_ms", "waited", "#E69F00"),
    ("network_ms", "network", "#56B4E9"),
    ("ran_ms", "computed", "#0072B2"),
)


def timeline(runs: Sequence[Run]) -> Any:
    """Answers, failures and latency by the intended start, with marked events; a row per run."""
    runs = [run for run in runs if len(run["timeline"]) > 1]
    if not runs:
        return None
    figure, axes = plt.subplots(
        len(runs), 2, figsize=(look.WIDTH_IN, 1.7 * len(runs) + 1.2), squeeze=False
    )
    for (left, right), run in zip(axes, runs, strict=True):
        _over_time(left, right, run)
        for at_s, text in run.get("events", ()):
            _mark(left, right, at_s, text)
        left.set_title(look.label(run), loc="left")
        left.set_ylim(bottom=0)
        right.sharex(left)
    axes[0][1].set_title("latency (ms, logarithmic): p50, shade to p99", loc="left")
    for place in axes[-1]:
        place.set_xlabel("time (s)")
    figure.supylabel("good answers per second; x failed", fontsize=10)
    figure.suptitle("Over time, by the intended start")
    return figure


def _over_time(left: Any, right: Any, run: Run) -> None:
    style, rows = look.look_of(run), run["timeline"]
    step_s = rows[1]["at_s"] - rows[0]["at_s"]
    times = [row["at_s"] for row in rows] + [rows[-1]["at_s"] + step_s]
    good = [(row["started"] - row["failed"]) / step_s for row in rows]
    left.plot(times, [*good, good[-1]], drawstyle="steps-post", **style)
    failed = [(row["at_s"] + step_s / 2, row["failed"] / step_s) for row in rows if row["failed"]]
    if failed:
        left.plot(*zip(*failed, strict=True), "x", color="#B3261E")
    seen = [row for row in rows if row["started"] > row["failed"]]
    middles = [row["at_s"] + step_s / 2 for row in seen]
    low, high = [row["p50_ms"] for row in seen], [row["p99_ms"] for row in seen]
    right.plot(middles, low, marker="o" if len(seen) < 3 else "", **style)
    right.fill_between(middles, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if seen:  # nothing answered: nothing to put on that axis
        right.set_yscale("log")
        look.plain_log(right.yaxis)


def _mark(left: Any, right: Any, at_s: float, text: str) -> None:
    for place in (left, right):
        place.axvline(at_s, color="#555555", linewidth=1.0, linestyle=":")
    left.annotate(text, (at_s, 0.0), (2, 2), xycoords=("data", "axes fraction"),
                  textcoords="offset points", rotation=90, va="bottom", fontsize=7)  # fmt: skip


def batch_sizes(runs: Sequence[Run]) -> Any:
    """How many items ran together, by role."""
    sizes = [(run, _batches(run)) for run in runs]
    sizes = [(run, found) for run, found in sizes if found]
    if not sizes:
        return None
    roles = sorted({role for _, found in sizes for role in found})
    columns = min(len(roles), 4)
    rows = -(-len(roles) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(look.WIDTH_IN, 2.6 * rows + 1.0), sharey=True, squeeze=False
    )
    for place in axes.flat[len(roles) :]:
        place.remove()
    for place, role in zip(axes.flat, roles, strict=False):
        for run, found in sizes:
            counts = found.get(role, Counter())
            items = sum(size * count for size, count in counts.items()) or 1
            share = [100.0 * size * counts[size] / items for size in sorted(counts)]
            place.plot(sorted(counts), share, marker="o", markersize=4, **look.look_of(run))
        place.set(title=role, xlabel="batch size (items)")
        place.set_ylim(0, 105)
        place.set_xlim(left=0)
        place.xaxis.get_major_locator().set_params(integer=True)
    figure.supylabel("share of the items (%)", fontsize=10)
    lines = [axes[0][0].plot([], [], marker="o", **look.look_of(run))[0] for run, _ in sizes]
    look.legend(figure, lines, [look.label(run) for run, _ in sizes])
    figure.suptitle("Items that ran together")
    return figure


def stage_waterfall(runs: Sequence[Run]) -> Any:
    """Where the time of a mean request goes: a bar per stage, in order, cut into its parts."""
    runs = [run for run in runs if run["stages"]]
    if not runs:
        return None
    heights = [len(run["stages"]) for run in runs]
    figure, axes = plt.subplots(
        len(runs), 1, figsize=(look.WIDTH_IN, 0.8 + sum(0.32 * one + 0.8 for one in heights)),
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
                f" {look.number(total)} ms",
                (total, row),
                va="center",
                fontsize=8,
                annotation_clip=False,
            )
        place.invert_yaxis()
        place.margins(x=0.12)
        place.set_title(look.label(run), fontsize=10)
        place.grid(visible=False, axis="y")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    axes[-1, 0].set_xlabel("mean time per request and stage (ms); parallel stages overlap")
    return figure


def memory(runs: Sequence[Run]) -> Any:
    """Resident memory of each node while it was under load; a panel per run."""
    runs = [run for run in runs if run.get("watch")]
    if not runs:
        return None
    nodes = sorted({row["node"] for run in runs for row in run["watch"]})
    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(look.WIDTH_IN, 2.4 * rows + 1.2), sharey=True, squeeze=False
    )
    for place in axes.flat[len(runs) :]:
        place.remove()
    for place, run in zip(axes.flat, runs, strict=False):
        for node in nodes:
            seen = [row for row in run["watch"] if row["node"] == node]
            points = [(row["at_s"], row["rss_bytes"] / 1e6) for row in seen]
            if points:
                place.plot(*zip(*points, strict=True), **look.look(nodes.index(node)))
        place.set_title(run["name"])
        place.set_xlabel("time (s)")
    axes[0][0].set_ylim(bottom=0)  # of all: they share it
    figure.supylabel("resident memory (MB)", fontsize=10)
    figure.suptitle("Memory by node")
    lines = [axes[0][0].plot([], [], **look.look(at))[0] for at in range(len(nodes))]
    look.legend(figure, lines, nodes)
    return figure


def _batches(run: Run) -> dict[str, Counter[int]]:
    """Return how often each batch size came, by role, over all nodes."""
    found: dict[str, Counter[int]] = {}
    for node in run.get("nodes", {}).values():
        for role, sizes in node.get("batch_sizes", {}).items():
            counts = found.setdefault(role, Counter())
            counts.update({int(size): count for size, count in sizes.items()})
    return found

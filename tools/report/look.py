"""How a run looks in every picture: its colour, its line, its name, and how numbers are written.

Shell: sets up matplotlib. A run looks alike in all pictures, also where others are left out.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl

from tools.report.runs import Run

mpl.use("Agg")

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito's colours, told apart by colour-blind eyes too; yellow is left out for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
SETTINGS = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
WIDTH_IN = 10.0  # of every picture, so that letters are of one size on the page


def look(number: int) -> dict[str, Any]:
    """Return how the line of that number looks."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number % len(STYLES)],
    }


def look_of(run: Run) -> dict[str, Any]:
    """Return how a run's line looks."""
    return look(run["place"])


def label(run: Run) -> str:
    """Return a run's name and how many requests it rests on."""
    return f"{run['name']} (n = {run['successful_requests']})"


def number(value: float) -> str:
    """Return a value with three digits that count, never as a power of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def plain_log(axis: Any) -> None:
    """Write the ticks of a logarithmic axis as plain numbers, more of them on a short one."""
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 3.0, 5.0, 7.0) if high < 8 * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs if high < 80 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Any, lines: Any, names: list[str]) -> None:
    """Put the names under the picture, where they cover nothing."""
    longest = max(map(len, names))
    columns = max(1, min(len(names), int(WIDTH_IN * 13) // (longest + 8)))
    figure.legend(lines, names, loc="outside lower center", ncols=columns)

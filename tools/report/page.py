"""Writes a report for people: one HTML file that holds everything, and one of plain text.

Pure. The page has no script and names nothing outside itself: pictures are inside it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from tools.loadgen.show import block
from tools.loadgen.summary import is_thin
from tools.report.runs import Run

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
figure { margin: 1.5rem 0; } figcaption { opacity: .75; font-size: .9rem; }
.facts td { text-align: left; } .facts th { font-weight: 400; opacity: .75; }
img { max-width: 100%; background: #fff; border-radius: 6px; }
.bad { color: #b3261e; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .bad { color: #ff8a80; } img { filter: invert(.9) hue-rotate(180deg); }
}
pre { overflow-x: auto; font-size: .8rem; }
"""
COLUMNS = (
    ("answers/s", "throughput", 0.0),
    ("mean", "mean", 0.0),
    ("p50", "median", 0.5),
    ("p95", "p95", 0.95),
    ("p99", "p99", 0.99),
    ("max", "max", 0.0),
)


def html(title: str, runs: Sequence[Run], pictures: Sequence[tuple[str, str, bytes]]) -> str:
    """Return the page."""
    figures = "\n".join(
        f'<figure><img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for _, caption, data in pictures
    )
    raw = "\n\n".join(escape(block(run)) for run in runs)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(verdict(runs))}</p>
{"".join(f'<p class="bad">{escape(line)}</p>' for line in doubts(runs))}
<h2>Figures</h2>
<table><thead><tr>{"".join(f"<th>{escape(head)}</th>" for head in heads())}</tr></thead>
<tbody>{"".join(_row(run) for run in runs)}</tbody></table>
<p>Latencies in milliseconds, from the intended start. A percentile with fewer than ten
requests beyond it is left out.</p>
{figures}
<h2>How it was measured</h2>
<table class="facts"><tbody>{"".join(_fact(*fact) for fact in facts(runs))}</tbody></table>
<details><summary>Everything, as printed</summary><pre>{raw}</pre></details>
</body></html>
"""


def text(title: str, runs: Sequence[Run]) -> str:
    """Return the report as plain text."""
    lines = [title, "=" * len(title), "", verdict(runs), *doubts(runs), ""]
    lines += [f"{name}: {value}" for name, value in facts(runs)]
    return "\n".join([*lines, "", *(block(run) + "\n" for run in runs)])


def verdict(runs: Sequence[Run]) -> str:
    """Return the one sentence that matters."""
    total = sum(run["total_requests"] for run in runs)
    failed = sum(run["failed_requests"] for run in runs)
    best = max(runs, key=lambda run: run["throughput"])
    sentence = f"{total} requests in {len(runs)} runs, {failed} failed"
    if len(runs) == 1:
        return f"{sentence}; {best['throughput']:.2f} answers per second."
    least = min(runs, key=lambda run: run["throughput"])
    ratio = best["throughput"] / least["throughput"] if least["throughput"] else 0.0
    return (
        f"{sentence}. Most answers per second: {best['name']} with {best['throughput']:.2f}, "
        f"{ratio:.2f} times {least['name']}."
    )


def doubts(runs: Sequence[Run]) -> list[str]:
    """Return why some of it must not be trusted."""
    return [f"{run['name']}: INVALID: {reason}" for run in runs for reason in run["invalid"]]


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return where and how the runs were made; equal facts once."""
    found: dict[tuple[str, str], None] = {}
    for run in runs:
        for name, value in run["environment"].items():
            shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            found[name, shown] = None
    return list(found)


def heads() -> list[str]:
    """Return the heads of the table of figures."""
    return ["run", "loop", "requests", "failed", *(head for head, _, _ in COLUMNS)]


def cells(run: Run) -> list[str]:
    """Return one run's row of the table of figures."""
    made = [run["name"], run["mode"], str(run["total_requests"]), str(run["failed_requests"])]
    for _, key, share in COLUMNS:
        value = run["throughput"] if key == "throughput" else run["latency"].get(key)
        is_unknown = value is None or (share and is_thin(run["successful_requests"], share))
        made.append("" if is_unknown else shown(value))
    return made


def shown(value: float) -> str:
    """Return a figure with no more digits than mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _row(run: Run) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(run)) + "</tr>"


def _fact(name: str, value: Any) -> str:
    return f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"

"""Shows a run to a person: progress while it lasts, the block of figures at its end.

Shell: writes to the terminal.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tools.loadgen.sample import FAILURES
from tools.loadgen.summary import is_thin

PLAIN_EVERY_S = 5.0  # where the output is no terminal


class Progress:
    """One line that is rewritten, or on a pipe one line every few seconds."""

    def __init__(self, title: str, total: int, seconds: float) -> None:
        self._title = title
        self._total = total
        self._seconds = seconds
        self._begin_s = time.monotonic()
        self._told_s = self._begin_s
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, done: int, failed: int) -> None:
        """Show how far the run is."""
        now_s = time.monotonic()
        if not self._is_terminal and now_s - self._told_s < PLAIN_EVERY_S:
            return
        self._told_s = now_s
        passed_s = now_s - self._begin_s
        share = f"{done}/{self._total}" if self._total else f"{done}"
        limit = f" of {self._seconds:.0f}" if self._seconds else ""
        text = f"{self._title}: {share} done, {failed} failed, {passed_s:.0f}{limit} s"
        end = "" if self._is_terminal else "\n"
        print(f"\r\033[K{text}" if self._is_terminal else text, end=end, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the line clean."""
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr)


def block(result: dict[str, Any]) -> str:
    """Return the figures of one phase as text."""
    total = result["total_requests"]
    share = 100.0 / total if total else 0.0
    lines = [
        f"=== {result['name']} ({result['mode']} loop) ===",
        _row("Total Requests", f"{total}"),
        _row("Successful", f"{result['successful_requests']} ({_share(result, share):.1f} %)"),
        _row("Failed", f"{result['failed_requests']}"),
        *(
            f"    {name:<20}{number:>8}  {FAILURES.get(name, '')}"
            for name, number in sorted(result["failures"].items())
        ),
        *(f"    e.g. {note}" for note in result["failure_notes"].values() if note),
        _row("Total Time", f"{result['total_time']:.2f} s"),
        _row("Throughput", f"{result['throughput']:.2f} requests/s"),
        *_times("Latency", result["latency"], result["successful_requests"]),
    ]
    if result["mode"] == "open":
        lines.append(_row("Offered Rate", f"{result['rate']:g} requests/s"))
        lines += _times("Sent Late By", result["lag"], total)
    if "first_token" in result:
        lines += _times("Time to First Token", result["first_token"], total)
        lines += _times("Between Pieces", result["between_tokens"], result["tokens"])
        lines.append(_row("Tokens", f"{result['tokens']}, {result['tokens_per_s']:.1f}/s"))
    lines += _stages(result["stages"])
    if result["node_distribution"]:
        lines.append("Node Distribution")
        answers = sum(result["node_distribution"].values())
        lines += [
            f"    {node:<20}{number:>8}  {100.0 * number / answers:5.1f} %"
            for node, number in result["node_distribution"].items()
        ]
        lines.append(_row("Load Balance Variance", f"{result['load_balance_percent']:.2f} %"))
    lines += _nodes(result.get("nodes", {}))
    lines += [f"INVALID RUN: {reason}" for reason in result["invalid"]]
    return "\n".join(lines)


def _share(result: dict[str, Any], share: float) -> float:
    return share * result["successful_requests"]


def _row(name: str, text: str) -> str:
    return f"{name:<24}{text}"


def _times(title: str, spread: dict[str, float], count: int) -> list[str]:
    """Return a table of times; a percentile that rests on too few samples is marked."""
    if not spread:
        return []
    names = (
        ("Mean", "mean", 0.0),
        ("p50", "median", 0.5),
        ("p95", "p95", 0.95),
        ("p99", "p99", 0.99),
        ("Min", "min", 0.0),
        ("Max", "max", 0.0),
        ("Std Dev", "std", 0.0),
    )
    return [f"{title} (ms)"] + [
        f"    {name:<20}{spread[key]:>12.2f}"
        + ("  (few samples)" if at and is_thin(count, at) else "")
        for name, key, at in names
    ]


def _stages(stages: list[dict[str, Any]]) -> list[str]:
    if not stages:
        return []
    head = f"    {'':<20}{'queued':>9}{'ran':>9}{'network':>9}{'batch':>7}  nodes"
    return ["Stages (mean ms)", head] + [
        f"    {one['name']:<20}{one['queued_ms']:>9.2f}{one['ran_ms']:>9.2f}"
        f"{one['network_ms']:>9.2f}{one['batch_size']:>7.2f}  "
        + ", ".join(f"{node} {number}" for node, number in sorted(one["nodes"].items()))
        for one in stages
    ]


def _nodes(nodes: dict[str, Any]) -> list[str]:
    """Return what each node used, where the nodes said so."""
    if not nodes:
        return []
    return [
        "Nodes",
        f"    {'':<20}{'memory MB':>10}{'CPU ms/request':>16}{'sent bytes/request':>20}",
        *(
            f"    {name:<20}{one['rss_bytes_max'] / 1e6:>10.0f}{one['cpu_ms_per_request']:>16.2f}"
            f"{sum(one['sent_bytes_per_request'].values()):>20.0f}"
            for name, one in nodes.items()
        ),
    ]

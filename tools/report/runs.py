"""Reads result files into runs that can be laid side by side.

Pure, but for reading files. A run is one phase of `benchmark_results.json`, or one side
of `comparison_results_<time>.json`: the same keys, with a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

Run = dict[str, Any]


def read(path: Path) -> list[Run]:
    """Return the runs of one file.

    Raises:
        ValueError: the file holds no results.
    """
    document = orjson.loads(path.read_bytes())
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected an object of results")
    found = document.get("phases") or document.get("sides")
    if not found:
        raise ValueError(f"{path}: expected 'phases' or 'sides', found {sorted(document)[:5]}")
    environment = document.get("environment", {})
    return [{**run, "environment": environment, "file": path.name} for run in found]


def named_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with names that differ: equal ones get their file or a number."""
    names = [run["name"] for run in runs]
    made: list[Run] = []
    for run in runs:
        name = run["name"]
        if names.count(name) > 1:
            name = f"{name} ({Path(run['file']).stem})"
        taken = [one["name"] for one in made]
        number = 2
        while name in taken:
            name = f"{run['name']} {number}"
            number += 1
        made.append({**run, "name": name})
    return made


def read_events(path: Path, run: Run) -> list[tuple[float, str]]:
    """Return (seconds since the run began, text) of each line of an events file.

    A line is JSON with `text` and either `at_s` or `at`, a moment in UTC.
    """
    began = datetime.fromisoformat(run["began_at"])
    events = []
    for line in path.read_text().splitlines():
        if line.strip():
            one = orjson.loads(line)
            at_s = one.get("at_s")
            if at_s is None:
                at_s = (datetime.fromisoformat(one["at"]) - began).total_seconds()
            events.append((float(at_s), str(one["text"])))
    return sorted(events)


def percentiles(rows: Sequence[Sequence[float]], shares: Sequence[float]) -> list[float]:
    """Return percentiles in milliseconds of a histogram's (floor in seconds, count) rows."""
    total = sum(count for _, count in rows)
    found = []
    for share in shares:
        left, value = share * total, 0.0
        for floor_s, count in rows:
            value = floor_s * 1000.0
            left -= count
            if left <= 0:
                break
        found.append(value)
    return found

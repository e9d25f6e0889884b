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


def with_events(runs: Sequence[Run], path: Path) -> list[Run]:
    """Return the runs, each with the events of a file that fell into it, as (seconds, text).

    A line is JSON with `text` and `at`, a moment in UTC, or `at_s`, seconds since the run
    began that it names as `run`; without a name that is the first.

    Raises:
        ValueError: a line is not that, or names a run that is not there.
    """
    found: dict[str, list[tuple[float, str]]] = {run["name"]: [] for run in runs}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            one = orjson.loads(line)
            name, at_s = _placed(runs, one)
            found[name].append((at_s, str(one["text"])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}:{number}: no event: {error!r}") from error
    return [{**run, "events": sorted(found[run["name"]])} for run in runs]


def _placed(runs: Sequence[Run], event: dict[str, Any]) -> tuple[str, float]:
    """Return the run that an event fell into, and the seconds since that began."""
    if event.get("at_s") is not None:
        return str(event.get("run", runs[0]["name"])), float(event["at_s"])
    at = datetime.fromisoformat(event["at"])
    since = [(at - datetime.fromisoformat(run["began_at"])).total_seconds() for run in runs]
    begun = [place for place, at_s in enumerate(since) if at_s >= 0.0]
    place = min(begun, key=lambda one: since[one], default=0)
    return str(runs[place]["name"]), since[place]


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

"""Says what was measured: facts of the machine, one Markdown table, and a JSON file.

Shell. Tables go to standard output; files to `bench/results/`, which git ignores.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """Return what a reader must know of the machine."""
    return {
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": psutil.getloadavg()[0],
        "commit": _commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": {
            name: metadata.version(name) for name in ("aiohttp", "uvloop", "orjson", "numpy")
        },
    }


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return "median (least-most)"."""
    shown = [f"{value:,.{digits}f}" for value in (middle(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]}-{shown[2]})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(name: str, title: str, body: str, data: Any) -> None:
    """Print a section and write both its forms."""
    facts = machine()
    words = (
        f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, "
        f"commit {facts['commit']}, load before {facts['load_before']:.1f}, {facts['at']}"
    )
    command = " ".join(["python", "-m", f"bench.{name}", *sys.argv[1:]])
    text = f"## {title}\n\n{body}\n\n`{command}` · {words}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    saved = {"machine": facts, "command": command, "data": data}
    (RESULTS / f"{name}.json").write_text(json.dumps(saved, indent=1))
    print(text, flush=True)


def progress(text: str) -> None:
    """Tell a person who waits."""
    print(text, file=sys.stderr, flush=True)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=RESULTS.parent,
        check=False,
    )
    return found.stdout.strip() or "unknown"

"""Draws what was measured, and puts it on one page.

Shell: reads result files, writes pictures, `performance_report.txt` and `report.html`.

    python -m tools.report benchmark_results.json
    python -m tools.report comparison_results_*.json --out output/report --events events.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.report import page
from tools.report.runs import named_apart, read, with_events


def main() -> int:
    """Write the report and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.report",
        description="Draw the results of tools.loadgen and tools.compare.",
        epilog="example: python -m tools.report benchmark_results.json --out output/report",
    )
    parser.add_argument("results", nargs="+", type=Path, help="JSON files of results")
    parser.add_argument("--out", type=Path, default=Path("output/report"), help="folder")
    parser.add_argument("--title", default="What was measured")
    parser.add_argument(
        "--events", type=Path, help="JSON lines with text and at, or run and at_s: in the timeline"
    )
    chosen = parser.parse_args()
    try:
        runs = named_apart([run for path in chosen.results for run in read(path)])
        runs = with_events(runs, chosen.events) if chosen.events else runs
        chosen.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    from tools.report import plots  # here: --help need not wait for matplotlib

    drawn = plots.draw_all(runs, chosen.out)
    pictures = [(name, caption, (chosen.out / name).read_bytes()) for name, caption in drawn]
    (chosen.out / "performance_report.txt").write_text(page.text(chosen.title, runs))
    (chosen.out / "report.html").write_text(page.html(chosen.title, runs, pictures))
    print(f"{chosen.out / 'report.html'}: {len(runs)} runs, {len(pictures)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())

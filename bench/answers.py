"""Measures the answer pipeline: one node without batching, with it, three nodes, and each part off.

    python -m bench.answers [--requests 24] [--rounds 1] [--rows batches,kept,hedging]

Shell. `tools.compare` with its options, as a section; `bench/results/answers_comparison.json` is
for `tools.report`. All sides run on this machine, one after the other, every role with one thread.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from bench.report import RESULTS, progress, publish, table
from tools.compare.__main__ import arguments, document, prepare
from tools.compare.measure import compare

KEPT = (
    "side", "concurrent", "throughput_median", "throughput_min", "throughput_max", "of", "latency",
    "failed_requests", "memory_bytes", "edge_bytes_per_request", "answers_equal",
    "answers_compared",
)  # fmt: skip


def body_of(results: Sequence[dict[str, Any]]) -> str:
    """Return the section's table."""
    rows = [
        [
            one["side"],
            one["concurrent"],
            f"{one['throughput_median']:.2f}",
            "" if one["of"] is None else f"{one['of']:.2f}",
            f"{one['latency']['median']:.0f}" if one["latency"] else "",
            f"{one['latency']['p95']:.0f}" if one["latency"] else "",
            one["failed_requests"],
            " + ".join(f"{count / 1e6:.0f}" for count in one["memory_bytes"].values()),
            f"{sum(one['edge_bytes_per_request'].values()) / 1e3:.1f}",
            f"{one['answers_equal']}/{one['answers_compared']}",
        ]
        for one in results
    ]
    head = [
        "side", "at once", "answers/s", "of distributed", "p50 ms", "p95 ms", "failed",
        "memory MB by node", "kB between nodes, an answer", "equal answers",
    ]  # fmt: skip
    note = (
        "The rows of a search with stalls ask another, shorter pipeline; they are set against each "
        'other. "equal answers": as the first side gave them, each question asked alone.'
    )
    return f"{table(head, rows)}\n\n{note}"


def main() -> int:
    """Measure and print; exit code 1 if a request failed."""
    parser = arguments()
    parser.prog, parser.epilog = "python -m bench.answers", None
    parser.set_defaults(requests=24, rounds=1)
    try:
        sides, plan = prepare(parser.parse_args())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    results = asyncio.run(compare(sides, plan, progress))
    kept = [{key: one[key] for key in KEPT} for one in results]
    publish("answers", "The answer pipeline", body_of(results), kept)
    (RESULTS / "answers_comparison.json").write_text(json.dumps(document(results)))
    return 1 if any(one["failed_requests"] for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())

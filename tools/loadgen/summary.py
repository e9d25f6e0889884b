"""What the samples of one phase say: counts, percentiles, failures, shares, a timeline.

Pure. The keys of `summarize` are what `benchmark_results.json` holds and what
`tools.report` draws.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import ceil
from statistics import fmean, pstdev
from typing import Any

from tools.loadgen.histogram import Histogram
from tools.loadgen.plan import Load
from tools.loadgen.sample import Sample

BEYOND_MIN = 10  # a percentile with fewer samples above it is one sample's luck
LAG_S_MIN = 0.002  # an event loop's own timer grain; less is not lateness
LAG_SHARE_MAX = 0.05  # of the median latency
ACHIEVED_MIN = 0.99
CPU_SHARE_MAX = 0.85  # above it a process of the generator is what is measured


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of ascending values; 0.0 of none."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def spread(values_s: Sequence[float]) -> dict[str, float]:
    """Return the moments and percentiles of some times, in milliseconds."""
    ordered = sorted(value * 1000.0 for value in values_s)
    if not ordered:
        return {}
    named = {"median": 0.5, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
    return {
        "mean": fmean(ordered),
        **{name: percentile(ordered, share) for name, share in named.items()},
        "min": ordered[0],
        "max": ordered[-1],
        "std": pstdev(ordered),
    }


def is_thin(count: int, share: float) -> bool:
    """Whether a percentile of `count` values rests on too few beyond it."""
    return count * (1.0 - share) < BEYOND_MIN


def balance_percent(distribution: dict[str, int]) -> float:
    """Return std/mean of the counts in per cent: 0 is perfectly even."""
    counts = list(distribution.values())
    return 100.0 * pstdev(counts) / fmean(counts) if counts else 0.0


def nodes_of(samples: Sequence[Sample]) -> dict[str, int]:
    """Count answers by node: the one named, else each node that ran a stage."""
    counts: Counter[str] = Counter()
    for one in samples:
        counts.update([one.node] if one.node else [stage.node for stage in one.stages])
    return dict(sorted(counts.items()))


def stages_of(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the mean times and the batch size of each stage, in order of appearance."""
    by_name = defaultdict(list)
    for one in samples:
        for stage in one.stages:
            by_name[stage.name].append(stage)
    return [
        {
            "name": name,
            "nodes": dict(Counter(stage.node for stage in stages)),
            "queued_ms": fmean(stage.queued_ms for stage in stages),
            "ran_ms": fmean(stage.ran_ms for stage in stages),
            "network_ms": fmean(stage.network_ms for stage in stages),
            "batch_size": fmean(stage.batch_size for stage in stages),
            "cached_share": fmean(stage.cached for stage in stages),
        }
        for name, stages in by_name.items()
    ]


def timeline_of(samples: Sequence[Sample], begin_s: float, step_s: float) -> list[dict[str, Any]]:
    """Return one row per step by the moment of the intended start."""
    rows: dict[int, list[Sample]] = defaultdict(list)
    for one in samples:
        rows[int((one.intended_s - begin_s) / step_s)].append(one)
    made = []
    for step in range(max(rows, default=-1) + 1):
        good = sorted(one.latency_s * 1000.0 for one in rows[step] if not one.failure)
        made.append(
            {
                "at_s": step * step_s,
                "started": len(rows[step]),
                "failed": len(rows[step]) - len(good),
                "p50_ms": percentile(good, 0.5),
                "p99_ms": percentile(good, 0.99),
            }
        )
    return made


def validity(
    load: Load, samples: Sequence[Sample], cpu_shares: Sequence[float], median_s: float
) -> list[str]:
    """Return why this run must not be trusted: the generator, not the server, was the limit."""
    found = []
    if load.is_open:
        dropped = sum(one.failure == "client_dropped" for one in samples)
        if samples and 1.0 - dropped / len(samples) < ACHIEVED_MIN:
            found.append(f"{dropped} of {len(samples)} requests were not sent")
        lag_s = percentile(sorted(one.lag_s for one in samples), 0.99)
        if lag_s > max(LAG_S_MIN, LAG_SHARE_MAX * median_s):
            found.append(f"1 % of the requests left more than {lag_s * 1000:.1f} ms late")
    if cpu_shares and max(cpu_shares) > CPU_SHARE_MAX:
        found.append(f"a load process used {max(cpu_shares):.0%} of a core: use --processes")
    return found


def summarize(
    load: Load, samples: Sequence[Sample], wall_s: float, cpu_shares: Sequence[float] = ()
) -> dict[str, Any]:
    """Return everything that one phase says, as JSON values; times in milliseconds."""
    good = [one for one in samples if not one.failure]
    latencies_s = [one.latency_s for one in good]
    distribution = nodes_of(good)
    begin_s = min((one.intended_s for one in samples), default=0.0)
    notes: dict[str, str] = {}
    for one in samples:
        if one.failure:
            notes.setdefault(one.failure, one.note)
    result = {
        "name": load.name,
        "mode": "open" if load.is_open else "closed",
        "total_requests": len(samples),
        "successful_requests": len(good),
        "failed_requests": len(samples) - len(good),
        "total_time": wall_s,
        "throughput": len(good) / wall_s if wall_s else 0.0,
        "latency": spread(latencies_s),
        "service": spread([one.end_s - one.sent_s for one in good]),
        "failures": dict(Counter(one.failure for one in samples if one.failure)),
        "failure_notes": notes,
        "kinds": dict(Counter(one.kind for one in samples)),
        "node_distribution": distribution,
        "load_balance_percent": balance_percent(distribution),
        "stages": stages_of(good),
        "sent_bytes": sum(one.sent_bytes for one in samples),
        "seen_bytes": sum(one.seen_bytes for one in samples),
        "timeline": timeline_of(samples, begin_s, 1.0 if wall_s < 600 else 10.0),
        "histogram": Histogram(latencies_s).rows(),
        "invalid": validity(load, samples, cpu_shares, percentile(sorted(latencies_s), 0.5)),
    }
    if load.is_open:
        result["rate"] = load.rate
        result["lag"] = spread([one.lag_s for one in samples])
    return result | streamed(good, wall_s)


def streamed(good: Sequence[Sample], wall_s: float) -> dict[str, Any]:
    """Return what only streams tell; nothing when there were none.

    The gap before the first piece is the time to first token and no gap between pieces.
    """
    streams = [one for one in good if one.first_s]
    if not streams:
        return {}
    tokens = sum(one.tokens for one in streams)
    return {
        "first_token": spread([one.first_s - one.intended_s for one in streams]),
        "between_tokens": spread([gap for one in streams for gap in one.gaps_s]),
        "tokens": tokens,
        "tokens_per_s": tokens / wall_s if wall_s else 0.0,
    }

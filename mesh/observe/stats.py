"""Measures the process itself: memory, processor, threads and how late its loop wakes.

Shell: reads the clock and the operating system. `Lag` is sampled by a task of
the node; the numbers stand in `/stats` under `process`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import psutil

LAG_EVERY_S = 0.1  # often enough to see a 100 ms stall, rare enough to cost nothing
LAG_SAMPLES_MAX = 600  # the last minute


class Lag:
    """How late the event loop wakes, over the last minute."""

    def __init__(self, observe_s: Callable[[float], None] | None = None) -> None:
        self._samples_ms: deque[float] = deque(maxlen=LAG_SAMPLES_MAX)
        self._observe_s = observe_s

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(LAG_EVERY_S)
            lag_s = max(0.0, time.monotonic() - before_s - LAG_EVERY_S)
            self._samples_ms.append(lag_s * 1000.0)
            if self._observe_s is not None:
                self._observe_s(lag_s)

    def statistics(self) -> dict[str, float]:
        """Return p50, p99 and max in milliseconds."""
        samples = sorted(self._samples_ms)
        return {
            "p50": round(quantile(samples, 0.50), 3),
            "p99": round(quantile(samples, 0.99), 3),
            "max": round(samples[-1], 3) if samples else 0.0,
        }


class Process:
    """What the operating system says about this process."""

    def __init__(self, lag: Lag) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only marks the start of the interval
        self._lag = lag
        self._started_s = time.monotonic()

    def rss_bytes(self) -> int:
        """Return resident memory."""
        return int(self._process.memory_info().rss)

    def cpu_seconds(self) -> float:
        """Return processor time used so far, by all threads."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def statistics(self) -> dict[str, Any]:
        """Return what `/stats` shows under `process`."""
        with self._process.oneshot():
            return {
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._started_s, 3),
                "rss_bytes": self.rss_bytes(),
                "cpu_percent": self._process.cpu_percent(),
                "cpu_seconds": round(self.cpu_seconds(), 3),
                "loop_lag_ms": self._lag.statistics(),
                "threads": self._process.num_threads(),
                "python": sys.version.split()[0],
            }


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the ordered samples lie; 0.0 of none.

    Nearest rank: an observed value, never one between two.
    """
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Times:
    """The latest durations of one kind of work, for quantiles in `/stats`."""

    def __init__(self, samples_max: int = 1000) -> None:
        self._samples_ms: deque[float] = deque(maxlen=samples_max)
        self.count = 0

    def add(self, ms: float) -> None:
        """Note one duration."""
        self.count += 1
        self._samples_ms.append(ms)

    def statistics(self) -> dict[str, float]:
        """Return the count of all and the quantiles of the latest."""
        ordered = sorted(self._samples_ms)
        shares = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}
        quantiles = {name: round(quantile(ordered, share), 3) for name, share in shares.items()}
        return {"count": self.count, **quantiles}

"""When each request is meant to start: a closed loop, or a schedule drawn beforehand.

Pure. A closed loop keeps a number of requests in flight, so a slow server slows the load
down with it; its latencies say nothing about a stall. An open loop sends by the schedule,
whatever the server does, and latency counts from the start that the schedule names: a
request that had to wait because the server stood still has waited.
"""

from __future__ import annotations

import random

from msgspec import Struct

ARRIVALS = ("poisson", "constant")


class Load(Struct, frozen=True, forbid_unknown_fields=True):
    """One phase of a run. With `rate` it is open and lasts `seconds`; otherwise closed."""

    name: str = "load"
    requests: int = 0  # closed: how many; 0 with `seconds`: as many as fit
    concurrent: int = 1  # closed: how many in flight
    rate: float = 0.0  # open: starts per second
    seconds: float = 0.0  # open: how long; closed: a limit
    arrival: str = "poisson"  # open: poisson | constant

    @property
    def is_open(self) -> bool:
        """Whether starts follow a schedule instead of the answers."""
        return self.rate > 0.0

    def problems(self) -> list[str]:
        """Return what is wrong with this load, one sentence each."""
        found = []
        if self.arrival not in ARRIVALS:
            found.append(f"arrival is one of {', '.join(ARRIVALS)}, not {self.arrival!r}")
        if self.rate < 0 or self.seconds < 0 or self.requests < 0:
            found.append("rate, seconds and requests are not negative")
        if self.concurrent < 1:
            found.append(f"concurrent is 1 or more, not {self.concurrent}")
        if self.is_open and not self.seconds and not self.requests:
            found.append("an open loop (rate) needs seconds or requests")
        if not self.is_open and not self.requests and not self.seconds:
            found.append("a closed loop needs requests or seconds")
        return found


def starts(load: Load, seed: int) -> list[float]:
    """Draw the intended starts of an open load, in seconds from its begin, ascending.

    The gaps are not rescaled to hit the rate exactly: that would make arrivals steadier
    than the process they are drawn from.
    """
    assert load.is_open
    rng = random.Random(seed)
    drawn: list[float] = []
    at_s = 0.0
    while True:
        at_s += 1.0 / load.rate if load.arrival == "constant" else rng.expovariate(load.rate)
        if (load.requests and len(drawn) >= load.requests) or (
            load.seconds and at_s > load.seconds
        ):
            return drawn
        drawn.append(at_s)


def shares(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` whole numbers that differ by at most one."""
    return [total // parts + (part < total % parts) for part in range(parts)]


class Work(Struct, frozen=True):
    """The part of a load that one process does."""

    load: Load
    starts: list[float] = []  # open: this process's own
    first: int = 0  # number of its first request; numbers are unique over processes
    stride: int = 1


def split(load: Load, processes: int, seed: int) -> list[Work]:
    """Divide a load over processes: a schedule one by one, a closed loop by its slots.

    A closed loop never gets more processes than slots or requests.
    """
    if load.is_open:
        drawn = starts(load, seed)
        return [Work(load, drawn[n::processes], n, processes) for n in range(processes)]
    processes = min(processes, load.concurrent, load.requests or load.concurrent)
    slots, counts = shares(load.concurrent, processes), shares(load.requests, processes)
    return [
        Work(
            Load(load.name, counts[n], slots[n], 0.0, load.seconds, load.arrival),
            first=n,
            stride=processes,
        )
        for n in range(processes)
    ]

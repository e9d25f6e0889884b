"""Which owner takes a request when the first one has too much to do already.

Pure. Consistent hashing with bounded loads: no node gets more than `c` times the
mean of what is in flight, so a hot key spills to the owners that follow it, always
the same ones, and their caches stay warm. The bound holds for what this node sees;
without a coordinator the mesh as a whole keeps it only roughly.

    capacity of a node = max(floor, ceil(c · (in flight + 1) · its part of the weight))

Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

C = 1.5  # at 1.25 a third of the requests leaves its owner when few are in flight
FLOOR = 4  # with fewer in flight rounding alone would drive requests away


def choose(
    owners: Sequence[str],
    in_flight: Mapping[str, int],
    c: float = C,
    floor: int = FLOOR,
    weights: Mapping[str, float] | None = None,
) -> str:
    """Return the first of `owners` that has room; if none has, the one least over its capacity.

    Args:
        owners: candidates in ring order, at least one.
        in_flight: requests per node; a missing one has none.
        c: how far above the mean a node may go, > 1.
        floor: what every node takes.
        weights: of the nodes; equal if absent.
    """
    assert owners
    assert c > 1
    total = sum(in_flight.get(name, 0) for name in owners) + 1
    shares = _shares(owners, weights)
    fullness: dict[str, float] = {}
    for name in owners:
        capacity = max(floor, ceil(c * total * shares[name]))
        load = in_flight.get(name, 0)
        if load < capacity:
            return name
        fullness[name] = load / capacity
    return min(owners, key=fullness.__getitem__)


def _shares(owners: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(owners, 1 / len(owners))
    whole = sum(weights.get(name, 1.0) for name in owners)
    return {name: weights.get(name, 1.0) / whole for name in owners}

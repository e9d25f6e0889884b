"""Decides which node computes which layers of a model.

Pure. The units are the layers, and both ends: embedding, last norm and output matrix stay
together on the head, so that one copy of tied weights does and all sampling is in one
place. Stages are contiguous and in the order of the nodes given, the head first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from mesh.errors import SetupError

TOGETHER = 0.5  # of all layers: with it the head of three has none, that of two a few


@dataclass(frozen=True, slots=True)
class Costs:
    """What the units of a model cost.

    Attributes:
        layer_s: seconds of one layer in a decoding step, on a node of speed 1.
        ends_s: seconds of both ends.
        layer_bytes: memory of one layer with its keys and values.
        ends_bytes: memory of both ends.
    """

    layer_s: float = 1.0
    ends_s: float = 0.0
    layer_bytes: int = 0
    ends_bytes: int = 0

    def together(self, layers: int) -> Costs:
        """Return them for nodes of one machine, whose parts need no balance: cores are shared.

        There the steps under way meet at the head, which decides for all of them in turn.
        """
        return replace(self, ends_s=max(self.ends_s, TOGETHER * layers * self.layer_s))


@dataclass(frozen=True, slots=True)
class Place:
    """A node that can take a part; `memory_bytes` 0: not limited."""

    name: str
    speed: float = 1.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Layers `[first, last)` on a node; the head's may be none."""

    node: str
    first: int
    last: int

    @property
    def count(self) -> int:
        """How many layers."""
        return self.last - self.first


def plan(
    layers: int, costs: Costs, places: Sequence[Place], counts: Sequence[int] = ()
) -> tuple[Part, ...]:
    """Return the parts, the head's first.

    Args:
        layers: of the model.
        costs: of its units.
        places: nodes that can take part, in order; the first is the head, the last ones spare
            where `counts` names fewer.
        counts: layers per node, given by hand; followed while there are enough nodes for it.

    Raises:
        SetupError: the counts do not add up, or the nodes' memory cannot hold the model.
    """
    assert layers > 0
    assert places
    if counts and sum(counts) != layers:
        raise SetupError(f"layers = {list(counts)}: the model has {layers}, not {sum(counts)}")
    if counts and len(places) >= len(counts):
        return _by_hand(places, counts)
    return _cut(layers, costs, places)


def bottleneck_s(parts: Sequence[Part], costs: Costs, places: Sequence[Place]) -> float:
    """Return how long the slowest part takes for one step."""
    by_name = {place.name: place for place in places}
    return max(
        _stage_s(part.count, costs, by_name[part.node], is_head=at == 0)
        for at, part in enumerate(parts)
    )


def _by_hand(places: Sequence[Place], counts: Sequence[int]) -> tuple[Part, ...]:
    parts, first = [], 0
    for at, (place, count) in enumerate(zip(places, counts, strict=False)):
        if count or at == 0:
            parts.append(Part(place.name, first, first + count))
        first += count
    return tuple(parts)


def _stage_s(count: int, costs: Costs, place: Place, *, is_head: bool) -> float:
    return (count * costs.layer_s + costs.ends_s * is_head) / place.speed


def _room(costs: Costs, place: Place, layers: int, *, is_head: bool) -> int:
    """Return how many layers fit on a node; negative where even the ends do not."""
    if not place.memory_bytes:
        return layers
    left = place.memory_bytes - costs.ends_bytes * is_head
    if left < 0:
        return -1
    return min(layers, left // costs.layer_bytes) if costs.layer_bytes else layers


def _cut(layers: int, costs: Costs, places: Sequence[Place]) -> tuple[Part, ...]:
    """Return the contiguous cut whose slowest part is fastest; the evenest of equal ones.

    Dynamic programming over (nodes used, layers placed), O(L²·S): exact for the slowest part.
    A node that would only slow the chain gets nothing.
    """
    # best[n] = (slowest, sum of squares, layers of each node so far) with n layers placed.
    best: list[tuple[float, float, tuple[int, ...]]] = [(0.0, 0.0, ())]
    best += [(inf, inf, ())] * layers
    for at, place in enumerate(places):
        room = _room(costs, place, layers, is_head=at == 0)
        times = [_stage_s(n, costs, place, is_head=at == 0) for n in range(room + 1)]
        best = [_extended(best, placed, times) for placed in range(layers + 1)]
    slowest, _, counts = best[layers]
    if slowest == inf:
        raise SetupError(f"the memory of {len(places)} nodes cannot hold {layers} layers")
    return _by_hand(places, counts)


def _extended(
    best: Sequence[tuple[float, float, tuple[int, ...]]], placed: int, times: Sequence[float]
) -> tuple[float, float, tuple[int, ...]]:
    """Return the best way to have placed so many layers, the next node's part taking `times`."""
    found = (inf, inf, ())  # type: tuple[float, float, tuple[int, ...]]
    for count in range(min(placed, len(times) - 1) + 1):
        slowest, squares, counts = best[placed - count]
        if slowest == inf:
            continue
        took_s = times[count]
        found = min(found, (max(slowest, took_s), squares + took_s**2, (*counts, count)))
    return found

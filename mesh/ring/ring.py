"""Who owns a key: consistent hashing with virtual nodes.

Pure. A ring is a function of its members alone: equal members give equal owners in
every process, so nobody needs to be asked. Each member puts points on a circle of
64-bit numbers, `VNODES` per unit of weight; a key belongs to the member of the
first point at or after the key's own.

    std/mean of the shares of N equal members with V points each: sqrt((N-1)/(N·V+1)),
    6.7 % for 3 members and 7.7 % for 10 at V = 150. It halves with four times the points.

A change of weight adds or removes only that member's last points, and a change of
members moves only what the one who came takes, or the one who left had.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import md5

import mmh3

VNODES = 150  # points per unit of weight
WEIGHT_MAX = 64.0  # so that a wrong weight cannot make every node build millions of points
CIRCLE = 1 << 64
RINGS_KEPT = 16  # the mesh's and a few roles'; one of a hundred members takes a megabyte

Hash = Callable[[bytes], int]


def hash64(data: bytes) -> int:
    """Return the point of `data`: the first half of MurmurHash3 x64 128, seed 0, unsigned."""
    # By name: mmh3 5.3.1 does not heed a positional `signed`.
    return mmh3.hash64(data, seed=0, x64arch=True, signed=False)[0]


def hash_md5(data: bytes) -> int:
    """Return the first half of MD5 as a point. Only to compare with rings that were built so."""
    return int.from_bytes(md5(data, usedforsecurity=False).digest()[:8], "big")


class Ring:
    """An immutable ring.

    Args:
        members: node names with their weights; a weight of 0 owns nothing.
        zones: of the members, by name; owners are then taken from distinct zones first.
        hash_: bytes to points; another one than the mesh's is for comparison only.
    """

    __slots__ = ("_hash", "_names", "_points", "_zones", "members", "version")

    def __init__(
        self,
        members: Mapping[str, float],
        zones: Mapping[str, str] | None = None,
        hash_: Hash = hash64,
    ) -> None:
        self.members = dict(sorted(members.items()))
        self._zones = dict(zones or {})
        self._hash = hash_
        # Ties, as good as impossible with 64 bits, go to the lesser name, everywhere alike.
        points = sorted(
            (hash_(f"{name}#{index}".encode()), name)
            for name, weight in self.members.items()
            for index in range(vnodes(weight))
        )
        self._points = [point for point, _ in points]
        self._names = [name for _, name in points]
        self.version = self._digest()

    def owners(self, key: str | bytes, count: int = 1) -> tuple[str, ...]:
        """Return up to `count` distinct owners of `key`, the first one first.

        The others are those who follow on the circle: were the first to leave, the
        second would own the key. With zones, members of zones not yet taken come first.
        """
        if not self._points:
            return ()
        start = bisect_left(self._points, self._hash(_bytes(key)))
        if count == 1:
            return (self._names[start % len(self._names)],)
        return self._walk(start, count)

    def _walk(self, start: int, count: int) -> tuple[str, ...]:
        names = self._names
        chosen: list[str] = []
        passed: list[str] = []  # whose zone was taken already
        zones: set[str] = set()
        seen: set[str] = set()
        for index in range(len(names)):
            name = names[(start + index) % len(names)]
            if name in seen:
                continue
            seen.add(name)
            zone = self._zones.get(name, "")
            if zone and zone in zones:
                passed.append(name)
            else:
                zones.add(zone)
                chosen.append(name)
            if len(chosen) == count:
                break
            if len(seen) == len(self.members):
                break
        return tuple((chosen + passed)[:count])

    def shares(self) -> dict[str, float]:
        """Return which share of all keys each member owns; they add up to 1."""
        shares = dict.fromkeys(self.members, 0.0)
        before = self._points[-1] - CIRCLE if self._points else 0
        for point, name in zip(self._points, self._names, strict=True):
            shares[name] += (point - before) / CIRCLE
            before = point
        return shares

    def _digest(self) -> int:
        told = "\n".join(
            f"{name}\t{vnodes(weight)}\t{self._zones.get(name, '')}"
            for name, weight in self.members.items()
        )
        return hash64(told.encode())

    def __len__(self) -> int:
        return len(self.members)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ring) and self.version == other.version

    def __hash__(self) -> int:
        return self.version

    def __repr__(self) -> str:
        return f"Ring({self.members!r}, version={self.version:016x})"


def ring_of(members: Mapping[str, float]) -> Ring:
    """Return the ring of these members, the same object while they are asked for again.

    Gossip tells of load every second; only who is there makes another ring.
    """
    return _ring_of(tuple(sorted(members.items())))


@lru_cache(RINGS_KEPT)
def _ring_of(members: tuple[tuple[str, float], ...]) -> Ring:
    return Ring(dict(members))


def vnodes(weight: float) -> int:
    """Return how many points a weight is worth; any weight above 0 is worth one."""
    if not weight > 0:
        return 0
    return max(1, round(VNODES * min(weight, WEIGHT_MAX)))


def moves(old: Ring, new: Ring) -> dict[tuple[str, str], float]:
    """Return which share of all keys goes from whom to whom; "" where nobody owns it."""
    borders = sorted({*old._points, *new._points})
    moved: dict[tuple[str, str], float] = {}
    before = borders[-1] - CIRCLE if borders else 0
    for border in borders:
        source, target = _owner_at(old, border), _owner_at(new, border)
        if source != target:
            moved[source, target] = moved.get((source, target), 0.0) + (border - before) / CIRCLE
        before = border
    return moved


def _owner_at(ring: Ring, point: int) -> str:
    if not ring._points:
        return ""
    return ring._names[bisect_left(ring._points, point) % len(ring._points)]


def _bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key

"""Which nodes take on which role.

Pure. Every node computes the same from the same topology and the same live members,
so placement needs no coordinator.

Rules, in order of authority:
1. A role with `nodes` is on exactly those, alive or not: a person said so.
2. A role with `replicas` is on that many of the nodes that can: weight above 0, not
   draining, all its labels, and memory left for it; on fewer only if fewer can.
3. Replicas go to distinct zones first.
4. A role that grows and shrinks stays where it is as far as it can: moving is no growing.
5. No node gets more than `SPREAD` times its share of the replicas while another has room.
6. Otherwise the ring decides, so that a change of members moves little.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from mesh.ring.ring import Ring, ring_of

SPREAD = 1.5  # as for requests (`bounded`): even enough, and little moves


class Wanted(Protocol):
    """What a topology says of a role."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, if they are fixed."""

    @property
    def replicas(self) -> int:
        """How many nodes the ring is to choose."""


class Candidate(Protocol):
    """What a live node says of itself."""

    @property
    def name(self) -> str:
        """As the topology calls it."""

    @property
    def weight(self) -> float:
        """Its share relative to others."""

    @property
    def draining(self) -> bool:
        """Whether it is about to leave."""

    @property
    def zone(self) -> str:
        """Where it stands, or ""."""

    @property
    def memory_mb(self) -> int:
        """What roles may use; 0: not limited."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it is good for."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a role needs of a node."""

    labels: tuple[str, ...] = ()
    memory_mb: int = 0


class _Place:
    """One node while roles are being placed."""

    __slots__ = ("capacity", "facts", "memory_left", "taken")

    def __init__(self, facts: Candidate, capacity: int) -> None:
        self.facts = facts
        self.capacity = capacity
        self.memory_left = float(facts.memory_mb) if facts.memory_mb else float("inf")
        self.taken = 0

    def can(self, need: Need) -> bool:
        has_labels = set(need.labels) <= set(self.facts.labels)
        return has_labels and self.memory_left >= need.memory_mb

    def take(self, need: Need) -> None:
        self.taken += 1
        self.memory_left -= need.memory_mb


def place(
    roles: Mapping[str, Wanted],
    nodes: Iterable[Candidate],
    needs: Mapping[str, Need] | None = None,
    kept: Mapping[str, Collection[str]] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Return the nodes of every role, in ring order where the ring chose.

    Args:
        roles: of the topology.
        nodes: live members, one of each name.
        needs: of roles that need something in particular.
        kept: nodes that a role is on already and is to stay on, if it can.
    """
    needs, kept = needs or {}, kept or {}
    able = {each.name: each for each in nodes if each.weight > 0 and not each.draining}
    ring = ring_of({name: each.weight for name, each in able.items()})
    places = _places(roles, able)
    placed: dict[str, tuple[str, ...]] = {}
    for role in sorted(roles, key=lambda name: (not roles[name].nodes, name)):  # fixed ones first
        need = needs.get(role, Need())
        if roles[role].nodes:
            placed[role] = tuple(roles[role].nodes)
        else:
            stays = kept.get(role, ())
            placed[role] = _choose(role, roles[role].replicas, need, ring, places, stays)
        for name in placed[role]:
            if name in places:
                places[name].take(need)
    return {role: placed[role] for role in roles}


def _places(roles: Mapping[str, Wanted], able: Mapping[str, Candidate]) -> dict[str, _Place]:
    total = sum(len(role.nodes) or role.replicas for role in roles.values())
    weight = sum(each.weight for each in able.values())
    return {
        name: _Place(each, ceil(SPREAD * total * each.weight / weight))
        for name, each in able.items()
    }


def _choose(
    role: str,
    count: int,
    need: Need,
    ring: Ring,
    places: Mapping[str, _Place],
    stays: Collection[str],
) -> tuple[str, ...]:
    """Return up to `count` of the nodes that can: where it is, new zones, room, then the ring."""
    left = [name for name in ring.owners(role, len(ring)) if places[name].can(need)]
    chosen: list[str] = []
    zones: set[str] = set()

    def rank(name: str) -> tuple[bool, bool, bool]:
        place = places[name]
        return name not in stays, place.facts.zone in zones, place.taken >= place.capacity

    while left and len(chosen) < count:
        name = min(left, key=rank)  # the first of equals, so the ring's order stands
        left.remove(name)
        chosen.append(name)
        zones |= {places[name].facts.zone} - {""}
    return tuple(chosen)

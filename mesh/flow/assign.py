"""Which nodes are to have which role now, as topology and gossip say.

Pure. A topology's words go to `ring.placement` and `policy.elastic`; every node that
knows the same members computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mesh.gossip.member import Facts
from mesh.policy import elastic
from mesh.ring.placement import Need, place
from mesh.settings.topology import Role, Scale, Topology


@dataclass(frozen=True, slots=True)
class Share:
    """A role's nodes, or how many of them."""

    nodes: tuple[str, ...]
    replicas: int


def assigned(topology: Topology, facts: Sequence[Facts]) -> dict[str, tuple[str, ...]]:
    """Return the nodes of each role.

    Args:
        topology: what is wanted.
        facts: of live nodes, one of each name.
    """
    roles = topology.roles
    shares = {
        name: Share(_nodes(name, role, facts), _count(name, role, facts))
        for name, role in roles.items()
    }
    needs = {
        name: Need(role.needs.labels, role.needs.memory_mb)
        for name, role in roles.items()
        if role.needs.labels or role.needs.memory_mb
    }
    kept = {
        name: {one.name for one in facts if name in one.roles}
        for name, role in roles.items()
        if isinstance(role.replicas, Scale)
    }
    return place(shares, facts, needs, kept)


def head_of(role: str, nodes: Sequence[str], facts: Sequence[Facts]) -> str | None:
    """Return which node leads a chain whose layers are split over `nodes`.

    Whoever leads already stays, the first of the list where two do; else the first that lives.

    Args:
        role: its name.
        nodes: of the chain, as the topology lists them.
        facts: of live nodes, one of each name.
    """
    able = {one.name: one for one in facts if not one.draining}
    live = [name for name in nodes if name in able]
    leading = [name for name in live if role in able[name].roles]
    return next(iter(leading or live), None)


def groups_of(role: Role) -> tuple[tuple[str, ...], ...]:
    """Return which nodes share a split role's layers: a group for each replica of the chain.

    Neighbours of the list are together, and groups stay what they are whoever lives: a node
    that is lost changes the cut of its own chain only.
    """
    replicas = role.replicas if isinstance(role.replicas, int) else 1
    count = max(1, min(replicas, len(role.nodes)))
    bounds = [at * len(role.nodes) // count for at in range(count + 1)]
    return tuple(role.nodes[first:last] for first, last in pairwise(bounds))


def group_of(role: Role, node: str) -> tuple[str, ...]:
    """Return the group that a node is in; itself alone where it is in none."""
    return next((group for group in groups_of(role) if node in group), (node,))


def heads_of(name: str, role: Role, facts: Sequence[Facts]) -> tuple[str, ...]:
    """Return the nodes that lead a split role's chains, as far as any of their groups lives."""
    heads = (head_of(name, group, facts) for group in groups_of(role))
    return tuple(head for head in heads if head)


def _nodes(name: str, role: Role, facts: Sequence[Facts]) -> tuple[str, ...]:
    return role.nodes if role.layers is None else heads_of(name, role, facts)


def _count(name: str, role: Role, facts: Sequence[Facts]) -> int:
    if role.layers is not None:
        return 0  # chains stay within their nodes, also where none of them lives
    if not isinstance(role.replicas, Scale):
        return role.replicas
    able = [one for one in facts if name in one.roles and not one.draining]
    return elastic.wanted(
        role.replicas.min,
        role.replicas.max,
        len(able),
        sum(name in one.busy for one in able),
        sum(name in one.idle for one in able),
    )

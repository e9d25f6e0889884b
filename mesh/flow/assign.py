"""Which nodes are to have which role now, as topology and gossip say.

Pure. A topology's words go to `ring.placement` and `policy.elastic`; every node that
knows the same members computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Return which node leads a role whose layers are split over `nodes`.

    Whoever leads already stays, the first of the list where two do; else the first that lives.

    Args:
        role: its name.
        nodes: as the topology lists them.
        facts: of live nodes, one of each name.
    """
    able = {one.name: one for one in facts if not one.draining}
    live = [name for name in nodes if name in able]
    leading = [name for name in live if role in able[name].roles]
    return next(iter(leading or live), None)


def _nodes(name: str, role: Role, facts: Sequence[Facts]) -> tuple[str, ...]:
    if role.layers is None:
        return role.nodes
    head = head_of(name, role.nodes, facts)
    return (head,) if head else ()


def _count(name: str, role: Role, facts: Sequence[Facts]) -> int:
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

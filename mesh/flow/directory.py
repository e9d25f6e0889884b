"""Which nodes answer for a role now, as membership and topology say.

Shell: reads the snapshots of `net.membership`; worked out once per change, not
per call. A node counts once it says itself that the role is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from mesh.flow.assign import assigned
from mesh.gossip.member import Member, Status
from mesh.ring.ring import Ring, ring_of
from mesh.settings.topology import Topology


class Membership(Protocol):
    """What is needed of `net.membership.Membership`."""

    @property
    def members(self) -> tuple[Member, ...]:
        """Every member that is known, this node among them."""

    @property
    def me(self) -> Member:
        """This node."""

    @property
    def version(self) -> int:
        """Grows with each change of `members`."""

    async def wait_change(self, version: int) -> int:
        """Wait until `version` is no longer current, and return the new one."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One node that serves a role."""

    name: str
    address: str
    is_self: bool = False
    suspect: bool = False
    load: float = 0.0
    weight: float = 1.0


class Directory:
    """Endpoints and rings by role, cached until membership changes.

    Args:
        membership: who is there.
        topology: returns the current topology.
    """

    def __init__(self, membership: Membership, topology: Callable[[], Topology]) -> None:
        self._membership = membership
        self._topology = topology
        self._version = -1
        self._live: tuple[Member, ...] = ()
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._rings: dict[str, Ring] = {}
        self._nodes: dict[str, Endpoint] | None = None
        self._node_ring: Ring | None = None
        self._placed: tuple[Topology, dict[str, tuple[str, ...]]] | None = None

    def endpoints(self, role: str) -> tuple[Endpoint, ...]:
        """Return the nodes that serve a role, by name; suspects are flagged, not left out."""
        self._refresh()
        found = self._endpoints.get(role)
        if found is None:
            found = tuple(self._endpoint(m) for m in self._live if role in m.facts.roles)
            self._endpoints[role] = found
        return found

    def ring(self, role: str) -> Ring:
        """Return the ring of the nodes that serve a role."""
        self._refresh()
        ring = self._rings.get(role)
        if ring is None:
            ring = ring_of({endpoint.name: endpoint.weight for endpoint in self.endpoints(role)})
            self._rings[role] = ring
        return ring

    def keepers(self, key: str) -> list[Endpoint]:
        """Return every node that takes work, in ring order of `key`, but suspects last."""
        self._refresh()
        if self._nodes is None:
            self._nodes = {m.facts.name: self._endpoint(m) for m in self._live}
            self._node_ring = ring_of(dict.fromkeys(self._nodes, 1.0))
        assert self._node_ring is not None
        found = [self._nodes[name] for name in self._node_ring.owners(key, len(self._nodes))]
        return sorted(found, key=lambda endpoint: endpoint.suspect)

    def expected(self, role: str) -> tuple[str, ...]:
        """Return the nodes that should serve a role: the topology's, or those the ring chose."""
        topology = self._topology()
        spec = topology.roles.get(role)
        if spec is None or spec.nodes:
            return spec.nodes if spec else ()
        self._refresh()
        if self._placed is None or self._placed[0] is not topology:
            self._placed = topology, assigned(topology, [member.facts for member in self._live])
        return self._placed[1].get(role, ())

    def is_coming(self, role: str, tried: Collection[str] = ()) -> bool:
        """Return whether nobody serves a role yet, but a node that should is there and loads it.

        A role whose layers are split is led by the next of its nodes when the first is lost.
        """
        expected = self.expected(role)
        spec = self._topology().roles.get(role)
        if spec is not None and spec.layers is not None:
            self._refresh()
            names = {member.facts.name for member in self._live}
            return any(name in names and name not in tried for name in expected)
        return not self.endpoints(role) and any(m.facts.name in expected for m in self._live)

    def explain(self, role: str) -> str:
        """Return why nobody answers for a role, for an error's message."""
        self._refresh()
        expected = self.expected(role)
        states = ", ".join(f"{name} ({self._state(name)})" for name in expected)
        if states:
            return f"expected {states}"
        if role not in self._topology().roles:
            return "the topology has no such role"
        return "no node that is here has the labels and the memory that it needs"

    def doubtful(self) -> list[str]:
        """Return the addresses of members that are suspected or gone."""
        return [
            member.address
            for member in self._membership.members
            if member.status is not Status.ALIVE
        ]

    def addresses(self) -> set[str]:
        """Return the addresses of all members that are not gone."""
        return {
            member.address
            for member in self._membership.members
            if member.status not in (Status.DEAD, Status.LEFT)
        }

    async def wait_change(self, version: int) -> int:
        """Wait until membership has changed from `version`."""
        return await self._membership.wait_change(version)

    @property
    def version(self) -> int:
        """The membership's version, to wait from."""
        return self._membership.version

    def _refresh(self) -> None:
        if self._version == self._membership.version:
            return
        self._version = self._membership.version
        self._live = _live(self._membership.members)
        self._endpoints.clear()
        self._rings.clear()
        self._nodes = None
        self._placed = None

    def _endpoint(self, member: Member) -> Endpoint:
        return Endpoint(
            name=member.facts.name,
            address=member.address,
            is_self=member.id == self._membership.me.id,
            suspect=member.status is Status.SUSPECT,
            load=member.facts.load,
            weight=member.facts.weight,
        )

    def _state(self, name: str) -> str:
        found = [m for m in self._membership.members if m.facts.name == name]
        if not found:
            return "never seen"
        newest = max(found, key=lambda member: member.boot)
        if newest.status in (Status.DEAD, Status.LEFT):
            return newest.status.name.lower()
        return "draining" if newest.facts.draining else "role not ready"


def _live(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """Return one member per name: the newest boot that lives and takes work, by name."""
    newest: dict[str, Member] = {}
    for member in members:
        if member.status in (Status.DEAD, Status.LEFT):
            continue
        known = newest.get(member.facts.name)
        if known is None or member.boot > known.boot:
            newest[member.facts.name] = member
    return tuple(newest[name] for name in sorted(newest) if not newest[name].facts.draining)

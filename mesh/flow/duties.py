"""Which roles are this node's to serve, and loading them as that becomes known.

Shell: `ring.placement` decides; roles fixed by name load at once, those that the
ring gives out load when this node knows its mesh, and again when it changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from mesh.errors import SetupError
from mesh.flow.directory import Membership
from mesh.flow.local import LocalRoles
from mesh.gossip.member import Member, Status
from mesh.ring.placement import place
from mesh.settings.schema import Join
from mesh.settings.topology import Role, Topology


class Duties:
    """What one node has to do.

    Args:
        node: its name.
        topology: returns the current one.
        local: the roles of this node.
        membership: who is there.
        join: whom this node asks first, and how long it waits for them.
    """

    def __init__(
        self,
        node: str,
        topology: Callable[[], Topology],
        local: LocalRoles,
        membership: Membership,
        join: Join,
    ) -> None:
        self._node, self._topology = node, topology
        self._local, self._membership, self._join = local, membership, join
        self._began_s = time.monotonic()

    async def run(self) -> None:
        """Load what is this node's, now and whenever the ring gives it more.

        Raises:
            SetupError: a role cannot be loaded.
        """
        await self._load(own_roles(self._topology(), self._node))
        while any(role.replicas for role in self._topology().roles.values()):
            version = self._membership.version
            if self.knows_mesh():
                await self._load(self._placed())
                await self._membership.wait_change(version)
            else:
                await self._wait_change_or_grace(version)

    def why_not_ready(self) -> str:
        """Return what is still to come, or ""."""
        own = own_roles(self._topology(), self._node)
        missing = [name for name in own if name not in self._local.ready]
        if missing:
            return f"loading roles: {', '.join(missing)}"
        return "" if self.knows_mesh() else "joining: no seed has answered yet"

    def knows_mesh(self) -> bool:
        """Return whether waiting for others would not tell this node more."""
        if not self._join.seeds or len(self._membership.members) > 1:
            return True
        return time.monotonic() - self._began_s >= self._join.grace_s

    def _placed(self) -> dict[str, Role]:
        """Return the roles that are this node's by name or by the ring."""
        roles = self._topology().roles
        placed = place(roles, [member.facts for member in live(self._membership.members)])
        return {role: roles[role] for role, nodes in placed.items() if self._node in nodes}

    async def _load(self, roles: Mapping[str, Role]) -> None:
        missing = {name: role for name, role in roles.items() if name not in self._local.ready}
        await self._local.load(missing, self._topology().models)
        failed = self._local.failed
        problems = [f"roles.{name}: {failed[name]}" for name in roles if name in failed]
        if problems:
            raise SetupError(*problems)

    async def _wait_change_or_grace(self, version: int) -> None:
        try:
            async with asyncio.timeout(self._join.grace_s):
                await self._membership.wait_change(version)
        except TimeoutError:
            return  # nobody answers: this node goes on alone


def own_roles(topology: Topology, node: str) -> dict[str, Role]:
    """Return the roles that a topology gives to a node by name."""
    return {name: role for name, role in topology.roles.items() if node in role.nodes}


def live(members: tuple[Member, ...]) -> list[Member]:
    """Return the members that are there, suspects among them."""
    return [m for m in members if m.status in (Status.ALIVE, Status.SUSPECT)]

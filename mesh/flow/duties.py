"""Which roles are this node's to serve: loads them, and drops them once others do.

Shell: `flow.assign` decides. Roles fixed by name load at once, those that the ring gives
out load when this node knows its mesh, and again when it or the topology changes.

Rules:
1. Load before announce: a role is told to the others when it can answer.
2. Drop after others serve: a role that moved stays until its new nodes have it.
3. Finish before closing: what a door sent before it heard of the drop is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from msgspec import structs

from mesh.errors import SetupError
from mesh.flow.assign import assigned, heads_of
from mesh.flow.directory import Membership
from mesh.flow.local import LocalRoles
from mesh.gossip.member import Facts, Member, Status
from mesh.models import sources
from mesh.settings.schema import Join
from mesh.settings.topology import Model, Needs, Role, Topology

LOOK_S = 1.0  # how often roles that part are looked at
# Until every door and balancer has heard that this node leaves, requests still come, and refusing
# them would fail some that cannot go elsewhere. Gossip needs a fifth of it.
NOTICE_S = 1.0
Made = tuple[Role, Model | None]
"""What a loaded role was made from."""


class Duties:
    """What one node has to do.

    Args:
        node: its name.
        topology: returns the one to follow.
        local: the roles of this node.
        membership: who is there.
        join: whom this node asks first, and how long it waits for them.
        finish_s: how long a role that was dropped may finish what it has.
        look: brings what this node says of itself up to date, before anything is decided on it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        node: str,
        topology: Callable[[], Topology],
        local: LocalRoles,
        membership: Membership,
        join: Join,
        finish_s: float = 30.0,
        look: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node, self._topology = node, topology
        self._local, self._membership, self._join = local, membership, join
        self._finish_s, self._look = finish_s, look
        self._clock = clock
        self._began_s = clock()
        self._made: dict[str, Made] = {}  # also of what could not be loaded: it is not tried again
        self._is_started = False

    async def run(self) -> None:
        """Load what is this node's and drop what is no longer, whenever that changes.

        Raises:
            SetupError: a role cannot be loaded at the start. Later that is in `failed`.
        """
        while True:
            self._look()
            version = self._membership.version
            topology = self._topology()
            if self.knows_mesh():
                placed = assigned(topology, newest_facts(self._membership.members))
                own = {name for name, nodes in placed.items() if self._node in nodes}
                await self._take_on(topology, {n: r for n, r in topology.roles.items() if n in own})
                self._is_started = True
                self._drop(own, placed)
            else:
                await self._take_on(topology, whole_roles(topology, self._node))
            await self._local.sweep(self._finish_s)
            if self._topology() is topology:
                await self._wait(version)

    async def hand_over(self, until_s: float) -> None:
        """Wait until the others know that this node leaves, and have what only it had."""
        me = self._membership.me
        others = [one for one in live(self._membership.members) if one.id != me.id]
        notice_s = self._clock() + (NOTICE_S if others else 0.0)
        while (now_s := self._clock()) < until_s:
            if now_s >= notice_s and self.has_heirs():
                return
            version = self._membership.version
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(until_s, max(notice_s, now_s + LOOK_S))):
                    await self._membership.wait_change(version)

    def has_heirs(self) -> bool:
        """Whether nothing is lost if this node, which says that it leaves, now leaves.

        Nothing is waited for that nobody else may have, by labels or memory.
        """
        topology = self._topology()
        roles = topology.roles
        facts = newest_facts(self._membership.members)
        others = [one for one in facts if one.name != self._node and not one.draining]
        heirs = assigned(topology, others)
        given = [name for name in self._local.ready if name in roles and not roles[name].nodes]
        return all(any(n in one.roles for one in others) for n in given if heirs.get(n))

    def why_not_ready(self) -> str:
        """Return what is still to come, or ""."""
        topology = self._topology()
        own = {*whole_roles(topology, self._node), *self._led(topology)}
        missing = sorted(name for name in own if name not in self._local.ready)
        if missing:
            return f"loading roles: {', '.join(missing)}"
        return "" if self.knows_mesh() else "joining: no seed has answered yet"

    def knows_mesh(self) -> bool:
        """Return whether waiting for others would not tell this node more."""
        if not self._join.seeds or len(self._membership.members) > 1:
            return True
        return self._clock() - self._began_s >= self._join.grace_s

    def _led(self, topology: Topology) -> set[str]:
        """Return the split roles that this node leads now."""
        facts = newest_facts(self._membership.members)
        split = {name: role for name, role in topology.roles.items() if role.layers is not None}
        return {n for n, role in split.items() if self._node in heads_of(n, role, facts)}

    async def _take_on(self, topology: Topology, roles: Mapping[str, Role]) -> None:
        """Load what is missing, and load anew what is made otherwise now."""
        made: dict[str, Made] = {
            name: (_core(role), topology.models.get(role.model)) for name, role in roles.items()
        }
        for name, role in roles.items():
            if self._made.get(name) == made[name]:
                if name not in self._local.loaded:
                    self._local.recall(name)
            elif name in self._local.loaded and name in self._made:
                await self._local.replace(name, role, topology.models)
                self._made[name] = made[name]
        missing = {
            name: role
            for name, role in roles.items()
            if name not in self._local.loaded
            and (name not in self._local.failed or self._made.get(name) != made[name])
        }
        if missing:
            await self._local.load(missing, topology.models)
        self._made |= made
        problems = [f"roles.{n}: {self._local.failed[n]}" for n in roles if n in self._local.failed]
        if problems and not self._is_started:
            raise SetupError(*problems)

    def _drop(self, own: set[str], placed: Mapping[str, tuple[str, ...]]) -> None:
        facts = {one.name: one.roles for one in newest_facts(self._membership.members)}
        for name in [name for name in self._local.ready if name not in own]:
            heirs = [node for node in placed.get(name, ()) if node in facts]
            is_gone = name not in placed
            if is_gone or (heirs and all(name in facts[node] for node in heirs)):
                self._local.retire(name)

    async def _wait(self, version: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._membership.wait_change(version)


def own_roles(topology: Topology, node: str) -> dict[str, Role]:
    """Return the roles that a topology gives to a node by name."""
    return {name: role for name, role in topology.roles.items() if node in role.nodes}


def whole_roles(topology: Topology, node: str) -> dict[str, Role]:
    """Return those of a node's roles that it answers alone, whoever else is there."""
    own = own_roles(topology, node)
    return {name: role for name, role in own.items() if role.layers is None}


def missing_models(topology: Topology, node: str) -> list[str]:
    """Return which models of a node's own roles are not on this machine, one line each."""
    problems: list[str] = []
    own = own_roles(topology, node)
    for name in sorted({role.model for role in own.values() if role.model}):
        model = topology.models[name]
        try:
            sources.locate(model.source, model.sha256)
        except SetupError as error:
            problems += [f"models.{name}: {problem}" for problem in error.problems]
    return problems


def live(members: tuple[Member, ...]) -> list[Member]:
    """Return the members that are there, suspects among them."""
    return [m for m in members if m.status in (Status.ALIVE, Status.SUSPECT)]


def newest_facts(members: tuple[Member, ...]) -> list[Facts]:
    """Return what live nodes say of themselves, the newest boot of each name."""
    newest: dict[str, Member] = {}
    for member in live(members):
        known = newest.get(member.facts.name)
        if known is None or member.boot > known.boot:
            newest[member.facts.name] = member
    return [newest[name].facts for name in sorted(newest)]


def _core(role: Role) -> Role:
    """Return what a loaded role depends on; where it is and who is routed to it is left out."""
    made = structs.replace(role, needs=Needs(), route="auto", key="", versions={})
    return made if role.layers is not None else structs.replace(made, nodes=(), replicas=0)

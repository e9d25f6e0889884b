"""Watches how much the elastic roles of this node are used, and says which are busy or idle.

Shell: of `policy.elastic`; `node` tells what it finds with the facts of this node.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from mesh.flow.directory import Directory
from mesh.flow.local import LocalRoles
from mesh.policy.elastic import Level, Pressure
from mesh.settings.topology import Scale, Topology


class Elastic:
    """The levels of this node's elastic roles.

    Args:
        topology: returns the current one.
        local: the roles of this node.
        directory: knows who serves a role.
        clock: monotonic seconds.

    Attributes:
        busy: roles that another replica would relieve.
        idle: roles that this node could do without.
    """

    def __init__(
        self,
        topology: Callable[[], Topology],
        local: LocalRoles,
        directory: Directory,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._topology, self._local, self._directory = topology, local, directory
        self._clock = clock
        self._pressures: dict[str, Pressure] = {}
        self._used: dict[str, tuple[float, float]] = {}
        self.busy: tuple[str, ...] = ()
        self.idle: tuple[str, ...] = ()

    def look(self) -> bool:
        """Look at every elastic role of this node; return whether there is news."""
        levels = {
            name: self._level(name, role.replicas)
            for name, role in self._topology().roles.items()
            if isinstance(role.replicas, Scale) and name in self._local.ready
        }
        for name in [name for name in self._pressures if name not in levels]:
            del self._pressures[name], self._used[name]
        before = self.busy, self.idle
        self.busy = tuple(sorted(n for n, level in levels.items() if level is Level.BUSY))
        self.idle = tuple(sorted(n for n, level in levels.items() if level is Level.IDLE))
        return before != (self.busy, self.idle)

    def _level(self, name: str, scale: Scale) -> Level:
        now_s, used_s = self._clock(), self._local.used_s(name, scale.streams)
        if name not in self._pressures:
            self._pressures[name] = Pressure(scale.idle_s)
            self._used[name] = (now_s, used_s)
        seen_s, before_s = self._used[name]
        self._used[name] = (now_s, used_s)
        share = (used_s - before_s) / (now_s - seen_s) if now_s > seen_s else 0.0
        replicas = tuple(endpoint.name for endpoint in self._directory.endpoints(name))
        return self._pressures[name].observe(share, replicas, now_s)

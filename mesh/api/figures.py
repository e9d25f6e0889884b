"""Gathers the numbers of a node for `/stats` and `/metrics` from the parts that count them.

Shell: reads their `statistics()`; counts nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.api.native import members_of, serving
from mesh.flow.admission import Admission
from mesh.flow.duties import live
from mesh.flow.local import LocalRoles
from mesh.flow.once import Once
from mesh.flow.pipeline import Pipelines
from mesh.flow.router import Router
from mesh.flow.stages import Stages
from mesh.flow.takeover import Takeover
from mesh.gossip.member import Status
from mesh.net.membership import Membership
from mesh.net.peers import Peers
from mesh.observe import language, limits
from mesh.observe.metrics import Metrics, Sample
from mesh.observe.stats import Process
from mesh.ring.ring import Ring
from mesh.settings.topology import Topology

_Read = Callable[[], Iterator[Sample]]


@dataclass(slots=True)
class Figures:
    """All parts of a node that count something."""

    topology: Callable[[], Topology]
    membership: Membership
    peers: Peers
    local: LocalRoles
    router: Router
    pipelines: Pipelines
    admission: Admission
    process: Process
    takeover: Takeover
    stages: Stages
    once: Once
    _ring: tuple[int, dict[str, Any]] = field(default=(-1, {}))

    def statistics(self) -> dict[str, Any]:
        """Return what `/stats` shows below the door's own counts."""
        return {
            "members": members_of(self.membership.members),
            "ring": self.ring(),
            "roles": self.roles(),
            "stages": self.stages.statistics(),
            "pipelines": self.pipelines.statistics(),
            "peers": self.edges(),
            "routes": self.router.statistics(),
            "door": self.admission.statistics(),
            "gossip": self.membership.statistics(),
            "process": self.process.statistics(),
            "topology": self.takeover.statistics(),
            "once": self.once.statistics(),
            "endings": dict(self.peers.endings),
        }

    def ring(self) -> dict[str, Any]:
        """Return the ring of all live members: its version, and each one's share."""
        if self._ring[0] != self.membership.version:
            ring = Ring({m.facts.name: m.facts.weight for m in live(self.membership.members)})
            shares = {name: round(share, 4) for name, share in ring.shares().items()}
            shown = {"version": ring.version, "share": shares}
            self._ring = (self.membership.version, shown)
        return self._ring[1]

    def roles(self) -> dict[str, dict[str, Any]]:
        """Return every role with its placement; those of this node with their figures."""
        own = self.local.statistics()
        members = self.membership.members
        return {
            name: {
                **own.get(name, {}),
                "kind": role.kind,
                "expected": role.nodes,
                "placement": serving(members, name),
            }
            for name, role in self.topology().roles.items()
        }

    def edges(self) -> dict[str, Any]:
        """Return the figures of each connection, by the peer's address, with its name."""
        names = {member.address: member.facts.name for member in self.membership.members}
        return {
            address: {"node": names.get(address, ""), **edge}
            for address, edge in self.peers.statistics().items()
        }

    def declare(self, metrics: Metrics) -> None:
        """Add to the metrics what is read at the scrape."""
        one = metrics.add_gauge
        total = metrics.add_counter
        one("mesh_members_nodes", "Members by status.", ("status",), self._by_status)
        one("mesh_ring_share_ratio", "Share of the ring.", ("node",), self._shares)
        one("mesh_process_resident_bytes", "Memory.", (), lambda: [((), self.process.rss_bytes())])
        total("mesh_process_cpu_seconds", "Processor time.", (), self._cpu)
        one("mesh_role_queue_items", "Items waiting at this node.", ("role",), self._role("queued"))
        total("mesh_role_batches", "Batches run here.", ("role",), self._role("total_batches"))
        total("mesh_role_items", "Items run here.", ("role",), self._role("total_items"))
        total("mesh_route_failovers", "Calls asked elsewhere.", (), self._route("failovers"))
        total("mesh_route_resumed", "Streams that went on elsewhere.", (), self._route("resumed"))
        total("mesh_route_hedges", "Late calls asked twice.", (), self._route("hedges"))
        total("mesh_topology_taken", "Topologies taken on.", (), self._topology("taken"))
        total("mesh_topology_refusals", "Topologies refused.", (), self._topology("refusals"))
        total("mesh_peer_received_bytes", "Bytes from peers.", ("node",), self._edge("bytes_in"))
        total("mesh_limit_reached", "Limits reached, by name.", ("limit", "role"), self._reached)
        total("mesh_gossip_events", "Doubts and verdicts of this node.", ("event",), self._events)
        one("mesh_route_breakers_active", "Breakers not closed.", ("role",), self._breakers)
        self._declare_models(metrics)
        total("mesh_peer_sent_bytes", "Bytes to peers.", ("node",), self._edge("bytes_out"))

    def _declare_models(self, metrics: Metrics) -> None:
        one, total, read = metrics.add_gauge, metrics.add_counter, self._models
        total(
            "mesh_llm_tokens",
            "Tokens of language models: read, known from before, said.",
            ("role", "done"),
            read(language.tokens),
        )
        total(
            "mesh_llm_prefixes",
            "Beginnings of prompts that were known: hit, copy, eviction.",
            ("role", "event"),
            read(language.prefixes),
        )
        one(
            "mesh_llm_kv_ratio",
            "Share of the memory for keys and values: held, warm, free.",
            ("role", "state"),
            read(language.memory),
        )
        one(
            "mesh_llm_answers_active",
            "Answers of language models: running, waiting.",
            ("role", "state"),
            read(language.answers),
        )

    def _models(self, of: Callable[[language.Figures], Iterator[Sample]]) -> _Read:
        return lambda: of(self.local.statistics())

    def _by_status(self) -> Iterator[Sample]:
        for status in Status:
            count = sum(m.status is status for m in self.membership.members)
            yield (status.name.lower(),), count

    def _shares(self) -> Iterator[Sample]:
        for name, share in self.ring()["share"].items():
            yield (name,), share

    def _cpu(self) -> Iterator[Sample]:
        yield (), self.process.cpu_seconds()

    def _reached(self) -> Iterator[Sample]:
        yield from limits.reached(self._counted()).items()

    def _events(self) -> Iterator[Sample]:
        for event, count in limits.gossip_events(self._counted()).items():
            yield (event,), count

    def _breakers(self) -> Iterator[Sample]:
        for role, edges in self.router.statistics()["edges"].items():
            yield (role,), sum(edge["breaker"] != "closed" for edge in edges.values())

    def _counted(self) -> dict[str, Any]:
        """Return the part of the figures in which limits are counted."""
        return {
            "roles": self.local.statistics(),
            "routes": self.router.statistics(),
            "door": self.admission.statistics(),
            "gossip": self.membership.statistics(),
            "once": self.once.statistics(),
            "endings": self.peers.endings,
        }

    def _role(self, key: str) -> Callable[[], Iterator[Sample]]:
        def read() -> Iterator[Sample]:
            for name, figures in self.local.statistics().items():
                if key in figures:
                    yield (name,), figures[key]

        return read

    def _route(self, key: str) -> Callable[[], Iterator[Sample]]:
        def read() -> Iterator[Sample]:
            yield (), self.router.statistics()[key]

        return read

    def _topology(self, key: str) -> Callable[[], Iterator[Sample]]:
        def read() -> Iterator[Sample]:
            yield (), self.takeover.statistics()[key]

        return read

    def _edge(self, key: str) -> Callable[[], Iterator[Sample]]:
        def read() -> Iterator[Sample]:
            totals: dict[str, float] = {}
            for address, edge in self.edges().items():
                name = edge["node"] or address
                totals[name] = totals.get(name, 0) + edge.get(key, 0)
            yield from (((name,), value) for name, value in totals.items())

        return read

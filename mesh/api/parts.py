"""What the HTTP doors stand on: the parts of a node that they call.

Pure values. `mesh.node` fills a `Parts`; handlers find it in their application.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from mesh.flow.admission import Admission
from mesh.flow.once import Once
from mesh.flow.pipeline import Pipelines
from mesh.flow.takeover import Takeover
from mesh.gossip.member import Member
from mesh.observe.logs import Log
from mesh.observe.metrics import Metrics
from mesh.observe.traces import Traces
from mesh.settings.schema import Node
from mesh.settings.topology import Topology

Types = Mapping[str, Any]
"""Names of fields with their types, e.g. `{"text": str}`; a field whose type is unknown has Any."""


@dataclass(slots=True)
class Parts:
    """One node, as its doors see it.

    Attributes:
        settings: the node's own.
        topology: the one in force.
        topology_text: the file that it came from.
        takeover: takes on newer topologies.
        stop: begins the orderly end of this node.
        pipelines: runs pipelines and single roles.
        admission: says who may enter.
        members: the mesh as this node sees it now.
        why_not_ready: a reason, or "" when this node may be sent requests.
        statistics: what `/stats` shows.
        role_types: what each role takes, as far as its class can be seen from here.
        input_types: what each pipeline's input takes.
        metrics: counted by the doors.
        traces: kept for `/v1/traces/{id}`.
        log: one line per request goes here.
        once: runs pipelines for requests whose id the caller chose, one answer per id.
        opened_at: when the doors were made, whole seconds, UTC.
    """

    settings: Node
    topology: Topology
    topology_text: str
    takeover: Takeover
    stop: Callable[[], None]
    pipelines: Pipelines
    admission: Admission
    members: Callable[[], tuple[Member, ...]]
    why_not_ready: Callable[[], str]
    statistics: Callable[[], dict[str, Any]]
    role_types: Mapping[str, Types]
    input_types: Mapping[str, Types]
    metrics: Metrics
    traces: Traces
    log: Log
    once: Once
    opened_at: int = field(default_factory=lambda: int(time.time()))


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)

"""What the whole mesh does: the tree of `topology.toml`, the same on every node.

Pure values; `settings.load` reads them and reports every problem at once.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Mesh(Struct, frozen=True, forbid_unknown_fields=True):
    """Which mesh this is."""

    name: str
    epoch: int = 1  # a higher epoch wins


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model's files come from: `wheel:…`, `hf:…` or `path:…`."""

    source: str
    sha256: str = ""  # of the wheel or file; checked when given


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """When a batch of one role leaves."""

    items_max: int = 32
    wait_ms: float = 0.0  # 0: an idle lane takes at once what is there
    cost_max: int = 0  # in the role's own unit, e.g. tokens; 0: not limited


class Role(Struct, frozen=True):
    """One role: what it does, with what, where. Unknown keys are the role's own options."""

    kind: str  # a built-in kind, or "package.module:Class"
    model: str = ""
    nodes: tuple[str, ...] = ()  # fixed here
    replicas: int = 0  # or the ring chooses that many among the nodes that can
    route: str = "least-loaded"  # ring | least-loaded | round-robin | random
    key: str = ""  # with route = "ring": the field whose value is hashed; "": the request id
    lane: str = "thread"  # thread | process | inline
    batch: Batch = field(default_factory=Batch)
    queue_max: int = 0  # 0: the node's limits.queue_max
    layers: Any = None  # of a split model: "auto" or layer counts per node
    options: dict[str, Any] = field(default_factory=dict)


class Stage(Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a pipeline. It starts as soon as every field that it takes exists."""

    name: str
    role: str
    take: dict[str, str] = field(default_factory=dict)  # role's field = pipeline's field
    give: dict[str, str] = field(default_factory=dict)  # role's field = pipeline's field


class Pipeline(Struct, frozen=True, forbid_unknown_fields=True):
    """A graph of stages that follows from their fields."""

    input: tuple[str, ...]
    output: tuple[str, ...]
    stages: tuple[Stage, ...]
    deadline_s: float = 0.0  # 0: the node's limits.deadline_s


class Topology(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    mesh: Mesh
    models: dict[str, Model] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    pipelines: dict[str, Pipeline] = field(default_factory=dict)

"""What the whole mesh does: the tree of `topology.toml`, the same on every node.

Pure values; `settings.load` reads them, `settings.crosscheck` says whether they
fit together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from mesh.settings.schema import Count, Name, Some

Route = Literal["auto", "least-loaded", "prefix", "ring", "round-robin", "random"]


class Mesh(Struct, frozen=True, forbid_unknown_fields=True):
    """Which mesh this is."""

    name: Name
    epoch: Count = 1  # a higher epoch wins
    # Every node's name, if you want a mistyped one to be found; nodes may join without it.
    nodes: tuple[Name, ...] = ()


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model's files come from: `wheel:…`, `hf:…` or `path:…`."""

    source: Annotated[str, Meta(pattern=r"^(wheel|hf|path):.+")]
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{64})?$")] = ""  # of the wheel or file


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """When a batch of one role leaves."""

    items_max: Some = 32
    wait_ms: Annotated[float, Meta(ge=0)] = 0.0  # 0: an idle lane takes at once what is there
    cost_max: Count = 0  # in the role's own unit, e.g. tokens; 0: not limited


class Cache(Struct, frozen=True, forbid_unknown_fields=True):
    """Which answers of one role are kept, by content of the item, on the node that made them."""

    items_max: Count = 0  # 0: none; only for roles that answer equal items equally
    bytes_max: Some = 64 << 20
    ttl_s: Annotated[float, Meta(gt=0)] = 300.0  # an answer that is older is made anew


class Scale(Struct, frozen=True, forbid_unknown_fields=True):
    """How many replicas the load may make of one role."""

    min: Some = 1
    max: Some = 1
    streams: Some = 4  # of a streaming role: so many at once are a fully used replica
    # A replica that was little used so long says so; when all do, one goes. Longer: memory is
    # held past a burst; shorter: a role is loaded again for the next one.
    idle_s: Annotated[float, Meta(gt=0)] = 30.0


class Needs(Struct, frozen=True, forbid_unknown_fields=True):
    """What a node must have for the ring to choose it."""

    labels: tuple[str, ...] = ()  # all of these in its compute.labels
    memory_mb: Count = 0  # left of its compute.memory_mb


class Version(Struct, frozen=True, forbid_unknown_fields=True):
    """Another role that takes a share of one role's calls."""

    role: Name  # takes and gives the same fields
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0  # of the calls; what is left stays
    shadow: bool = False  # it is called beside, and its answers are only counted


class Role(Struct, frozen=True):
    """One role: what it does, with what, where. Unknown keys are the role's own options."""

    kind: str  # a built-in kind, or "package.module:Class"
    model: str = ""
    nodes: tuple[str, ...] = ()  # fixed here
    # Or the ring chooses that many among the nodes that can; { min, max }: as the load asks.
    replicas: Count | Scale = 0
    needs: Needs = field(default_factory=Needs)
    # "prefix": by how a conversation or prompt begins, so that its turns meet what was computed;
    # by load where it has none. "auto": that for kind "generate", by load for others.
    route: Route = "auto"
    key: str = ""  # with route = "ring": the field whose value is hashed; "": the request id
    # Where it computes: a thread of the node; a process of its own, which a flood of requests to
    # the node leaves alone; or the loop itself, for roles that take well under 100 µs.
    lane: Literal["thread", "process", "inline"] = "thread"
    batch: Batch = field(default_factory=Batch)
    queue_max: Count = 0  # 0: the node's limits.queue_max
    cache: Cache = field(default_factory=Cache)
    versions: dict[str, Version] = field(default_factory=dict)  # sticky by key, or by conversation
    # Of a split model: "auto" or layer counts per node. With replicas = n there are n chains, and
    # the nodes are dealt out among them in order.
    layers: Any = None
    options: dict[str, Any] = field(default_factory=dict)


class Stage(Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a pipeline. It starts as soon as every field that it takes exists."""

    name: Name
    role: str
    take: dict[str, str] = field(default_factory=dict)  # role's field = pipeline's field
    give: dict[str, str] = field(default_factory=dict)  # role's field = pipeline's field


class Pipeline(Struct, frozen=True, forbid_unknown_fields=True):
    """A graph of stages that follows from their fields."""

    input: tuple[str, ...]
    output: tuple[str, ...]
    stages: tuple[Stage, ...]
    deadline_s: Annotated[float, Meta(ge=0)] = 0.0  # 0: the node's limits.deadline_s


class Topology(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    mesh: Mesh
    models: dict[Name, Model] = field(default_factory=dict)
    roles: dict[Name, Role] = field(default_factory=dict)
    pipelines: dict[Name, Pipeline] = field(default_factory=dict)

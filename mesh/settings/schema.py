"""What one node may be told: the tree of `node.toml`.

Pure values; `settings.load` reads them. Each field names its unit, its default,
and why, with what more or less of it costs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Count = Annotated[int, Meta(ge=0)]
Some = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Names of nodes, roles, models, pipelines: they stand in URLs, metrics and file names."""
Level = Literal["debug", "info", "warning", "error"]


class Listen(Struct, frozen=True, forbid_unknown_fields=True):
    """Where this node listens, as "host:port"; port 0 asks the system for a free one."""

    http: str = "127.0.0.1:8000"
    peer: str = "127.0.0.1:7000"  # TCP and UDP


class Advertise(Struct, frozen=True, forbid_unknown_fields=True):
    """Under which addresses others reach this node, if not where it listens (NAT, containers)."""

    http: str = ""
    peer: str = ""


class Join(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to ask first. One seed that answers, now or later, is enough."""

    seeds: tuple[str, ...] = ()
    # How long a node that no seed answers waits before it serves alone. Longer: a restarted
    # mesh opens its doors later; shorter: the first node says NoOwner for what others will do.
    grace_s: Annotated[float, Meta(ge=0)] = 3.0


class Compute(Struct, frozen=True, forbid_unknown_fields=True):
    """What roles may compute with."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Some = 1  # per role; the sum over nodes of one machine should not pass its cores
    memory_mb: Count = 0  # what placement may fill with models; 0: not limited
    weight: Seconds = 1.0  # share of the ring relative to the other nodes
    labels: tuple[str, ...] = ()
    zone: str = ""  # replicas go to distinct zones first


class Security(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may speak to this node."""

    secret: str = ""  # seals gossip and peer connections; the same on every node
    api_keys: tuple[str, ...] = ()  # when given, HTTP requires `Authorization: Bearer`
    cors_origins: tuple[str, ...] = ()  # browsers of these origins may call; "*" for all
    # Names under which clients reach this node, beside addresses, localhost and the names of
    # the mesh; "*" for any. A page of a foreign name that resolves to us is refused.
    hosts: tuple[str, ...] = ()


class Gossip(Struct, frozen=True, forbid_unknown_fields=True):
    """SWIM and Lifeguard; the defaults suit one network of ordinary machines (memberlist's LAN)."""

    probe_interval_s: Seconds = 1.0
    probe_timeout_s: Seconds = 0.5
    indirect_count: Count = 3
    suspicion_mult: Some = 4
    gossip_interval_s: Seconds = 0.2
    gossip_fanout: Some = 3
    sync_interval_s: Seconds = 30.0
    rejoin_interval_s: Seconds = 10.0


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a node takes before it says no; each limit has an error of `mesh.errors`."""

    body_bytes_max: Some = 32 << 20  # TooLarge; ten times the 3 MB JSON tensors of /infer
    requests_max: Some = 4096  # Overloaded; requests in flight at this door
    connections_max: Some = 8192  # Overloaded; open at this door, also idle ones
    queue_max: Some = 1024  # Overloaded; items waiting per role
    frame_bytes_max: Some = 64 << 20  # TooLarge; one message between nodes
    deadline_s: Seconds = 60.0  # DeadlineExceeded; where a caller names none
    deadline_s_max: Seconds = 3600.0  # what a caller may ask for; more is cut to this
    drain_s: Annotated[float, Meta(ge=0)] = 30.0  # how long a leaving node finishes what it has
    traces_max: Some = 1000  # traces kept for /v1/traces/{id}, about 2 kB each


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """What is written to standard error: JSON lines, or plain ones on a terminal."""

    level: Level = "info"
    # Lines per second for requests that went well and fast; failures and slow ones are always
    # logged. A line costs about 20 µs of the loop; what was left out is counted in the next one.
    request_lines_s_max: Count = 20
    slow_s: Seconds = 5.0  # a request that takes longer is always logged


class Node(Struct, frozen=True, forbid_unknown_fields=True):
    """One machine's settings."""

    name: Name
    topology: Path  # relative to node.toml
    data: Path = Path("var")  # everything this node writes; relative to node.toml
    listen: Listen = field(default_factory=Listen)
    advertise: Advertise = field(default_factory=Advertise)
    join: Join = field(default_factory=Join)
    compute: Compute = field(default_factory=Compute)
    security: Security = field(default_factory=Security)
    gossip: Gossip = field(default_factory=Gossip)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)


SECRETS = frozenset({"security.secret", "security.api_keys"})
"""Keys whose values are never shown or logged."""

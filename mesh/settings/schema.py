"""What one node may be told: the tree of `node.toml`.

Pure values; `settings.load` reads them. Each field names its unit, its default,
and why, with what more or less of it costs.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field


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


class Compute(Struct, frozen=True, forbid_unknown_fields=True):
    """What roles may compute with."""

    device: str = "auto"  # auto | cpu | cuda
    threads: int = 1  # per role; the sum over nodes of one machine should not pass its cores
    memory_mb: int = 0  # what placement may fill with models; 0: not limited
    labels: tuple[str, ...] = ()
    zone: str = ""  # replicas go to distinct zones first


class Security(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may speak to this node."""

    secret: str = ""  # seals gossip and peer connections; the same on every node
    api_keys: tuple[str, ...] = ()  # when given, HTTP requires `Authorization: Bearer`
    cors_origins: tuple[str, ...] = ()  # browsers of these origins may call; "*" for all


class Gossip(Struct, frozen=True, forbid_unknown_fields=True):
    """SWIM and Lifeguard; the defaults suit one network of ordinary machines (memberlist's LAN)."""

    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5
    indirect_count: int = 3
    suspicion_mult: int = 4
    gossip_interval_s: float = 0.2
    gossip_fanout: int = 3
    sync_interval_s: float = 30.0
    rejoin_interval_s: float = 10.0


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a node takes before it says no; each limit has an error of `mesh.errors`."""

    body_bytes_max: int = 32 << 20  # TooLarge; ten times the 3 MB JSON tensors of /infer
    requests_max: int = 4096  # Overloaded; requests in flight at this door
    queue_max: int = 1024  # Overloaded; items waiting per role
    frame_bytes_max: int = 64 << 20  # TooLarge; one message between nodes
    deadline_s: float = 60.0  # DeadlineExceeded; where a caller names none
    deadline_s_max: float = 3600.0  # what a caller may ask for
    drain_s: float = 30.0  # how long a leaving node finishes what it has


class Node(Struct, frozen=True, forbid_unknown_fields=True):
    """One machine's settings."""

    name: str
    topology: Path  # relative to node.toml
    data: Path = Path("var")  # everything this node writes; relative to node.toml
    listen: Listen = field(default_factory=Listen)
    advertise: Advertise = field(default_factory=Advertise)
    join: Join = field(default_factory=Join)
    compute: Compute = field(default_factory=Compute)
    security: Security = field(default_factory=Security)
    gossip: Gossip = field(default_factory=Gossip)
    limits: Limits = field(default_factory=Limits)

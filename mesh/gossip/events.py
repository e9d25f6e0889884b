"""What the membership machine is told, and what it asks its shell to do.

Pure. Events are facts that have happened; actions are imperatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.gossip.member import Facts, Member
from mesh.gossip.packets import Packet, Sync


@dataclass(frozen=True, slots=True)
class Started:
    """The sockets are open: begin."""


@dataclass(frozen=True, slots=True)
class PacketReceived:
    """A datagram of this mesh came from `source`, "host:port"."""

    packet: Packet
    source: str


@dataclass(frozen=True, slots=True)
class SyncReceived:
    """A peer sent everything it knows, as a call or as the answer to ours."""

    sync: Sync


@dataclass(frozen=True, slots=True)
class SyncEnded:
    """A sync that this machine asked for has ended; `by` is who answered, or ""."""

    address: str
    by: str


@dataclass(frozen=True, slots=True)
class StreamProbeAnswered:
    """The target answered over TCP what it did not answer over UDP."""

    seq: int
    target: str


@dataclass(frozen=True, slots=True)
class FactsTold:
    """This node has something new to say about itself."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class LeaveAsked:
    """This node wants to leave in an orderly way."""


Event = (
    Started
    | PacketReceived
    | SyncReceived
    | SyncEnded
    | StreamProbeAnswered
    | FactsTold
    | LeaveAsked
)


@dataclass(frozen=True, slots=True)
class SendPacket:
    """Send one datagram; it may get lost."""

    address: str
    packet: Packet


@dataclass(frozen=True, slots=True)
class StartSync:
    """Push everything to `address` and pull what it knows; end with `SyncEnded`."""

    address: str


@dataclass(frozen=True, slots=True)
class ProbeStream:
    """Ask over TCP whether `target` lives; report only a success, within `timeout_s`."""

    seq: int
    target: str
    address: str
    timeout_s: float


class Kind(Enum):
    """What there is to notice."""

    JOINED = "joined"
    UPDATED = "updated"
    SUSPECTED = "suspected"
    CLEARED = "cleared"  # a suspect has refuted
    DIED = "died"
    LEFT = "left"
    REFUTED = "refuted"  # this node contradicted an accusation
    STALLED = "stalled"  # this node's own loop stood still
    STREAM_ONLY = "stream_only"  # reachable over TCP, not over UDP
    NAME_TAKEN = "name_taken"  # two members carry one name
    SUPERSEDED = "superseded"  # another process runs with this node's identity
    GONE = "gone"  # this node has told that it leaves, and may stop


@dataclass(frozen=True, slots=True)
class Notice:
    """Something worth a line in a log; nothing has to be done."""

    kind: Kind
    member: Member
    by: tuple[str, ...] = ()
    seconds: float = 0.0


Action = SendPacket | StartSync | ProbeStream | Notice

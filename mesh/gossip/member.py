"""What is known of one member, and which news about it wins.

Pure. News about a member is its whole state, so that knowledge is a join: of two
pieces of news the one with the higher `precedence` wins, whatever the order in
which they came, and every order of gossip ends in the same view.

    ALIVE@i  <  SUSPECT@i  <  DEAD@i  <  LEFT@i  <  ALIVE@i+1  <  …  <  a later boot

Only the member itself raises its incarnation, and only to refute or to tell new
facts; a restart raises the boot epoch, which outranks every incarnation before.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from mesh.errors import SetupError

FACTS_BYTES_MAX = 512  # memberlist's limit for a node's metadata; a rumour must fit a datagram
ACCUSERS_MAX = 4  # more voices than any suspicion asks for at suspicion_mult <= 5

Id = Annotated[str, Meta(min_length=1, max_length=32)]
Address = Annotated[str, Meta(max_length=128)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]  # milliseconds since 1970 need 41 bits


class Status(IntEnum):
    """How a member is seen; SUSPECT is routed around, DEAD and LEFT leave the ring."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What a node says about itself; travels with its membership, at most 512 bytes encoded."""

    name: str  # as in node.toml; what a topology calls it
    http: str = ""  # "host:port" that clients reach
    roles: tuple[str, ...] = ()  # loaded and ready
    topology_epoch: int = 0
    load: float = 0.0  # estimated seconds of work waiting
    weight: float = 1.0  # share of the ring relative to others
    draining: bool = False
    zone: str = ""
    memory_mb: int = 0  # what node.toml grants to models
    labels: tuple[str, ...] = ()
    topology_digest: int = 0  # tells two texts of one epoch apart
    busy: tuple[str, ...] = ()  # elastic roles here that another replica would relieve
    idle: tuple[str, ...] = ()  # elastic roles here that this node could do without


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One member as this node sees it now."""

    id: Id  # random, new at every first start; never an address
    boot: Count  # boot epoch; a restart has a higher one
    incarnation: Count
    status: Status
    address: Address  # "host:port" of the peer port, TCP and UDP
    facts: Facts

    @property
    def version(self) -> tuple[int, int]:
        """What only the member itself can raise."""
        return (self.boot, self.incarnation)

    @property
    def precedence(self) -> tuple[int, int, int]:
        """News with the higher one wins."""
        return (self.boot, self.incarnation, self.status)

    @property
    def is_present(self) -> bool:
        """Whether the member counts: probed, gossiped to, kept in the ring."""
        return self.status <= Status.SUSPECT

    def seen_as(self, status: Status) -> Member:
        """Return the same version of the member under another status."""
        return msgspec.structs.replace(self, status=status)


class News(msgspec.Struct, frozen=True, array_like=True):
    """One rumour: a member's whole state, with what an observer adds to it."""

    member: Member
    accusers: Annotated[tuple[Id, ...], Meta(max_length=ACCUSERS_MAX)] = ()
    gone_s: Count = 0  # how long ago it died or left, for a sync


def facts_bytes(facts: Facts) -> int:
    """Return how many bytes `facts` take on the wire."""
    return len(msgspec.msgpack.encode(facts))


def check_facts(facts: Facts) -> None:
    """Refuse facts that would not fit, before they reach the network.

    Raises:
        SetupError: with the size found and what makes it smaller.
    """
    size = facts_bytes(facts)
    if size > FACTS_BYTES_MAX:
        raise SetupError(
            f"what node {facts.name!r} says about itself takes {size} bytes, at most "
            f"{FACTS_BYTES_MAX} are allowed: shorten names of roles, labels or zone"
        )

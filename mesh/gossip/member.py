"""What is known of one member, and which news about it wins.

Pure. (The owner of this package completes this file.)
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


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


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One member as this node sees it now."""

    id: str  # random, new at every first start; never an address
    boot: int  # boot epoch; a restart has a higher one
    incarnation: int
    status: Status
    address: str  # "host:port" of the peer port, TCP and UDP
    facts: Facts

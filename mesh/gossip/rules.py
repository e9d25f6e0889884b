"""How a mesh gossips: every interval, count and limit of the machine, with its reason.

Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.gossip.packets import DATAGRAM_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Rules:
    """The first eight are settings of a node, the rest have one good value."""

    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5  # p99 of a round trip, and room for a busy peer
    indirect_count: int = 3
    suspicion_mult: int = 4
    gossip_interval_s: float = 0.2
    gossip_fanout: int = 3
    sync_interval_s: float = 30.0
    rejoin_interval_s: float = 10.0
    packet_bytes_max: int = DATAGRAM_BYTES_MAX
    retransmit_mult: int = 4  # memberlist's LAN value
    retransmit_min: int = 8  # below ten members four sends leave 8 % of news unheard at 5 % loss
    nack_share: float = 0.8  # of the probe timeout: a nack must arrive before the verdict
    stall_s: float = 0.25  # an alarm later than this means that we stood still, not the others
    to_dead_s: float = 30.0  # the dead hear rumours so long, so that they can refute
    lonely_interval_s: float = 0.5  # how often seeds are asked while nobody else is known
    first_gossip_s: float = 0.01  # fresh news waits so long for company in its packet
    load_interval_s: float = 1.0  # a new load alone is told no more often
    leave_s: float = 2.0  # a leaving node stays no longer than this to tell so
    syncs_max: int = 8  # at once, as the answer to memberlist's pile-up (its issue 158)
    seeds_max: int = 8  # asked at once
    relays_max: int = 256  # pings for others in flight

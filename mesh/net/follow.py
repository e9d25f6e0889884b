"""Lets connections follow what gossip knows of the other nodes.

Shell. A machine that lost its power sends no reset: connections to the dead are closed
here. And one that is back is tried again at once, whatever failed before.
"""

from __future__ import annotations

from mesh.gossip.member import Status
from mesh.net.membership import Membership
from mesh.net.peers import Peers


async def follow(membership: Membership, peers: Peers) -> None:
    """Drop the dead and welcome who comes, until cancelled."""
    here: set[tuple[str, int]] = set()
    while True:
        version = membership.version
        alive = [m for m in membership.members if m.status in (Status.ALIVE, Status.SUSPECT)]
        addresses = {member.address for member in alive}
        for member in membership.members:
            if member.status is Status.DEAD and member.address not in addresses:
                peers.drop(member.address)
        for member in alive:
            if (member.id, member.boot) not in here:
                peers.welcome(member.address)
        here = {(member.id, member.boot) for member in alive}
        await membership.wait_change(version)

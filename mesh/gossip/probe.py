"""One question "are you there?", asked for this node or for another.

Pure. The state that `gossip.swim` keeps between ping and verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.gossip.member import Member


@dataclass(slots=True)
class Probe:
    """This node's own open question; there is at most one."""

    seq: int
    member: Member
    since_s: float
    until_s: float
    asked: int = 0  # helpers
    nacks: int = 0  # helpers that heard nothing either, but could tell us so

    def take_nack(self, seq: int, target: str) -> None:
        """Count a helper that did its part."""
        if (seq, target) == (self.seq, self.member.id):
            self.nacks = min(self.asked, self.nacks + 1)

    @property
    def missing(self) -> int:
        """How many helpers stayed silent: a sign that we are cut off, not the target."""
        return self.asked - self.nacks


@dataclass(slots=True)
class Relay:
    """A ping on behalf of another node."""

    seq: int  # as the asking node numbered it
    target: str
    origin: str
    source: str
    is_nacked: bool = False

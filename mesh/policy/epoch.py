"""Which topology wins where two differ, and when a door may follow the newer one.

Pure. `flow.takeover` asks it of every topology that it meets: in the file, from a
peer, from a person.

Rules, in order of authority:
1. Another mesh's topology is never taken.
2. A person (file, door) must raise the epoch: two texts of one epoch are a mistake.
3. Among nodes a higher epoch wins, and of two texts of one epoch the higher digest:
   no reason but that every node ends with the same one.
4. A door follows once every role that pipelines need is served, or was not before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

import mmh3


class Verdict(Enum):
    """What becomes of a topology that is offered."""

    TAKE = "take"
    SAME = "same"
    OLDER = "older"
    RIVAL = "rival"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Edition:
    """One topology text, as far as choosing goes."""

    mesh: str
    epoch: int
    digest: int

    @property
    def precedence(self) -> tuple[int, int]:
        """Among nodes the higher one wins."""
        return (self.epoch, self.digest)


def digest_of(text: str) -> int:
    """Return 32 bits of a text's hash: enough to tell two editions of one epoch apart."""
    return mmh3.hash(text.encode(), signed=False)


def judge(known: Edition, offered: Edition, *, is_peer: bool) -> Verdict:
    """Return what to do with `offered`.

    Args:
        known: the one that this node has.
        offered: the other.
        is_peer: a node offers it, not a person.
    """
    if offered.mesh != known.mesh:
        return Verdict.FOREIGN
    if offered.precedence == known.precedence:
        return Verdict.SAME
    if offered.epoch < known.epoch:
        return Verdict.OLDER
    if offered.epoch > known.epoch:
        return Verdict.TAKE
    if not is_peer:
        return Verdict.RIVAL
    return Verdict.TAKE if offered.digest > known.digest else Verdict.OLDER


def missing(
    needed: Iterable[str], served: Collection[str], unserved_before: Collection[str]
) -> tuple[str, ...]:
    """Return the roles that a door still waits for before it follows a new topology.

    Args:
        needed: roles of the new topology's pipelines.
        served: roles that some live node has loaded.
        unserved_before: roles of the old pipelines that nobody served either: waiting for
            them would hold back a change that may well be the remedy.
    """
    return tuple(
        sorted(role for role in set(needed) if role not in served and role not in unserved_before)
    )

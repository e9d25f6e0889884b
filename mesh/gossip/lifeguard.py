"""How long a suspect may stay silent, and how much a node trusts its own senses.

Pure. Formulas of SWIM as memberlist's code computes them, with Lifeguard's two
ideas: a suspicion shortens as independent members confirm it, and a node whose
own probes fail slows down before it blames others.

Source: Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More
Accurate Failure Detection", arXiv 1707.00788; memberlist util.go, suspicion.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, log2, log10

SUSPICION_MAX_MULT = 6  # memberlist's; the ceiling relative to the floor
SMALL_MESH_MULT = 3  # ceiling where one accuser has too few others to confirm it
SCORE_MAX = 7  # memberlist clamps at 8 levels: a sick node probes eight times slower
SYNC_SCALE_FROM = 32  # members; beyond, syncs become rarer, so that their sum stays bounded


def node_scale(members: int) -> float:
    """Return the factor by which news needs longer in a mesh of `members`, >= 1."""
    return max(1.0, log10(max(1, members)))


def retransmit_limit(members: int, mult: int) -> int:
    """Return how often one node sends the same news."""
    return mult * ceil(log10(members + 1))


def sync_interval_s(base_s: float, members: int) -> float:
    """Return the time between two syncs that one node starts, seconds."""
    if members <= SYNC_SCALE_FROM:
        return base_s
    return base_s * (ceil(log2(members) - log2(SYNC_SCALE_FROM)) + 1)


def suspicion_s(confirmations: int, expected: int, min_s: float, max_s: float) -> float:
    """Return how long a suspect may stay silent before it counts as dead.

    Starts at `max_s` and falls to `min_s` as independent members agree: each
    further voice tells less than the one before, hence the logarithm.

    Args:
        confirmations: members other than the first accuser who agree, >= 0.
        expected: confirmations at which `min_s` is reached; 0 means "ask nobody".
        min_s: floor, seconds, > 0.
        max_s: ceiling, seconds, >= `min_s`.

    Returns:
        Seconds from the first accusation, within [`min_s`, `max_s`].
    """
    assert confirmations >= 0
    assert 0.0 < min_s <= max_s
    if expected < 1:
        return min_s
    fraction = log(confirmations + 1) / log(expected + 1)
    return max(min_s, max_s - fraction * (max_s - min_s))


@dataclass(frozen=True, slots=True)
class Patience:
    """The bounds of one suspicion, for a mesh of a given size."""

    expected: int
    min_s: float
    max_s: float

    def timeout_s(self, accusers: int) -> float:
        """Return the whole length of a suspicion that `accusers` members share."""
        return suspicion_s(max(0, accusers - 1), self.expected, self.min_s, self.max_s)


def patience(members: int, mult: int, probe_interval_s: float) -> Patience:
    """Return how long a mesh of `members` waits for a suspect.

    From four members on as memberlist does it. In smaller ones memberlist asks
    nobody, so that one starved accuser kills a healthy peer within the floor; here
    the third member of three is asked, and where there is none the floor trebles.
    """
    min_s = mult * node_scale(members) * probe_interval_s
    wanted = max(0, mult - 2)
    others = max(0, members - 2)
    if others >= wanted > 0:
        return Patience(wanted, min_s, SUSPICION_MAX_MULT * min_s)
    if others > 0 and wanted > 0:
        return Patience(others, min_s, SMALL_MESH_MULT * min_s)
    alone_s = SMALL_MESH_MULT * min_s
    return Patience(0, alone_s, alone_s)


@dataclass(slots=True)
class Awareness:
    """How unwell this node seems to itself: 0 is healthy, `SCORE_MAX` is worst."""

    score: int = 0

    def adjust(self, delta: int) -> None:
        """Move the score by `delta`, within its bounds."""
        self.score = min(SCORE_MAX, max(0, self.score + delta))

    def scaled_s(self, interval_s: float) -> float:
        """Return `interval_s`, longer the less this node trusts itself."""
        return interval_s * (self.score + 1)

"""Whether a node is asked again after it failed: not for a while, then by one call to try.

Pure. One breaker per role and address, so that a restarted node starts afresh. It
counts what says that the node or the way to it is broken, never a role's own
errors: or one client with bad items could close a service to all.

    CLOSED --5 failures in a row--> OPEN --after a while--> HALF_OPEN --3 successes--> CLOSED
                                      ^------one failure-------'

A stream succeeds with its first piece, so that long ones do not keep others waiting; what
broke before in a row is forgotten only when one has ended well, else a node that breaks every
stream in its midst would never be left alone.

An open breaker is this door's view only; it is never gossiped as a death.
"""

from __future__ import annotations

from enum import Enum
from random import Random

from mesh.errors import DeadlineExceeded, LocalProtocolError, MeshError, PeerError

FAILURES_MAX = 5  # Envoy's rule for consecutive failures; fewer open on a passing hiccup
SUCCESSES_MIN = 3  # one could be luck
OPEN_S = 1.0  # the first time; membership notices a dead node soon after
OPEN_S_MAX = 30.0  # doubled each time up to this
JITTER_SHARE = 0.2  # so that doors do not all try at the same moment
LATE_S_MIN = 1.0  # an answer that missed a shorter deadline says nothing about the node
LATE_FACTOR = 5.0  # nor one that had less than this times what is usual


class State(Enum):
    """What may pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


# An enum's members are looked up by a function: four times on the way of every request.
_CLOSED, _OPEN, _HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class Breaker:
    """The state of one edge."""

    __slots__ = ("_failures", "_open_s", "_probes", "_successes", "_until_s", "state")

    def __init__(self) -> None:
        self.state = _CLOSED
        self._failures = 0
        self._successes = 0
        self._probes = 0
        self._open_s = OPEN_S
        self._until_s = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether a call may be sent now."""
        if self.state is _CLOSED:
            return True
        if self.state is _OPEN:
            return now_s >= self._until_s
        return self._probes == 0

    def try_at_s(self, now_s: float) -> float:
        """Return when a call may be sent at the earliest."""
        return max(now_s, self._until_s) if self.state is _OPEN else now_s

    def sent(self, now_s: float) -> None:
        """Note a call that leaves."""
        if self.state is _OPEN and now_s >= self._until_s:
            self.state, self._successes, self._probes = _HALF_OPEN, 0, 0
        if self.state is _HALF_OPEN:
            self._probes += 1

    def began(self) -> None:
        """Note the first piece of an answer: who is tried has passed."""
        if self.state is _HALF_OPEN:
            self._passed()

    def ended(self) -> None:
        """Note the good end of a call whose first piece was noted."""
        self._failures = 0

    def succeeded(self) -> None:
        """Note that a call was answered at once and whole."""
        self._failures = 0
        if self.state is _HALF_OPEN:
            self._passed()

    def failed(self, now_s: float, rng: Random) -> None:
        """Note that the node or the way to it failed."""
        self._failures += 1
        if self.state is _HALF_OPEN or (self.state is _CLOSED and self._failures >= FAILURES_MAX):
            self.state = _OPEN
            jitter = 1.0 + JITTER_SHARE * (2.0 * rng.random() - 1.0)
            self._until_s = now_s + self._open_s * jitter
            self._open_s = min(OPEN_S_MAX, 2.0 * self._open_s)

    def abandoned(self) -> None:
        """Note that a call ended without telling anything of the node."""
        if self.state is _HALF_OPEN:
            self._probes = max(0, self._probes - 1)

    def _passed(self) -> None:
        self._probes = max(0, self._probes - 1)
        self._successes += 1
        if self._successes >= SUCCESSES_MIN:
            self.state, self._open_s, self._failures = _CLOSED, OPEN_S, 0

    def check(self) -> None:
        """Assert every invariant."""
        assert self._probes >= 0
        assert self.state is not _CLOSED or self._failures < FAILURES_MAX
        assert OPEN_S <= self._open_s <= OPEN_S_MAX


def is_failure(error: MeshError, took_s: float, usual_s: float) -> bool:
    """Whether an error says that the node or the way to it is broken.

    Args:
        error: what the call met.
        took_s: how long the call was under way.
        usual_s: how long calls of this edge usually take; 0.0: not known.
    """
    if isinstance(error, DeadlineExceeded):
        return took_s >= max(LATE_S_MIN, LATE_FACTOR * usual_s)
    return isinstance(error, PeerError) and not isinstance(error, LocalProtocolError)

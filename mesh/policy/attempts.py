"""Whether a call that failed is tried again, elsewhere.

Pure. Only the door's router retries; hops never do, or attempts would multiply.

Rules, in order of authority:
1. Never after a part of the answer has reached the caller.
2. Never what is the caller's fault or the role's own: `retry` of the error says so.
3. A call that may have begun is tried again only if the role may run it twice.
4. Never at a node that was tried, and at most `attempts_max` times in all: an item that ends
   every process which runs it must not go round.
5. Never when the time left could not hold an attempt.

To rule 4 there is one exception. Where nobody is left, since several nodes were lost one after
the other, each may have been slow or cut off for a moment only: then all but the last may be
asked again after a short wait, if the role may run an item twice. A single node that failed is
not asked again: the caller is told at once.
"""

from __future__ import annotations

from random import Random

from mesh.errors import MeshError, PeerError, Retry, Unreachable

ATTEMPTS_MAX = 3  # a third node may answer where one died and its stand-in was full
HEDGE_S_MIN = 0.02  # below this a second call costs more than it can save
BACKOFF_S = 0.02  # doubled per attempt; a refusal should reach the caller within 50 ms
BACKOFF_S_MAX = 1.0
LEFT_S_MIN = 0.005  # less than a round trip on a local network: an attempt could only fail


class Tried:
    """Where a call was made since its answer last went on.

    Args:
        names: the nodes where it was made already.

    Attributes:
        names: the nodes that are not asked again.
        count: how many attempts there were, also at those that may be asked again.
    """

    __slots__ = ("count", "names")

    def __init__(self, *names: str) -> None:
        self.names = [*names]
        self.count = len(names)

    def add(self, name: str) -> None:
        """Note an attempt."""
        self.names.append(name)
        self.count += 1

    def forgive_but(self, name: str) -> None:
        """Let all but one be asked again."""
        self.names = [name]


def may_have_begun(error: MeshError) -> bool:
    """Whether the peer may have started on the call before this error."""
    return isinstance(error, PeerError) and not isinstance(error, Unreachable)


def may_retry(
    error: MeshError,
    *,
    attempts: int,
    is_idempotent: bool,
    has_streamed: bool,
    others: int,
    left_s: float,
    attempts_max: int = ATTEMPTS_MAX,
) -> bool:
    """Whether to call another node after `error`.

    Args:
        error: what the last attempt met.
        attempts: how many were made.
        is_idempotent: whether the role may run an item twice.
        has_streamed: whether the caller has seen a part of the answer.
        others: nodes that were not tried yet.
        left_s: seconds until the deadline.
        attempts_max: most attempts in all.
    """
    if has_streamed or error.retry is not Retry.ELSEWHERE:
        return False
    if may_have_begun(error) and not is_idempotent:
        return False
    return attempts < attempts_max and others > 0 and left_s > LEFT_S_MIN


def may_return(error: MeshError, tried: Tried, *, is_idempotent: bool) -> bool:
    """Whether nodes that failed may be asked again, all others having failed too.

    What else `may_retry` asks for must hold as well.

    Args:
        error: what the last attempt met.
        tried: every node that could be asked.
        is_idempotent: whether the role may run an item twice.
    """
    return is_idempotent and isinstance(error, PeerError) and len(tried.names) > 1


def backoff_s(attempts: int, rng: Random) -> float:
    """Return the wait before the next attempt at a node that is not known to be free.

    Full jitter: anywhere between none and the whole, so that calls which were
    refused together do not come back together.
    """
    return rng.random() * min(BACKOFF_S_MAX, BACKOFF_S * 2.0 ** (attempts - 1))

"""Whether a call that failed is tried again, elsewhere.

Pure. Only the door's router retries; hops never do, or attempts would multiply.

Rules, in order of authority:
1. Never after a part of the answer has reached the caller.
2. Never what is the caller's fault or the role's own: `retry` of the error says so.
3. A call that may have begun is tried again only if the role may run it twice.
4. Never at a node that was tried, and at most `attempts_max` times in all.
5. Never when the time left could not hold an attempt.
"""

from __future__ import annotations

from random import Random

from mesh.errors import MeshError, PeerError, Retry, Unreachable

ATTEMPTS_MAX = 3  # a third node may answer where one died and its stand-in was full
HEDGE_S_MIN = 0.02  # below this a second call costs more than it can save
BACKOFF_S = 0.02  # doubled per attempt; a refusal should reach the caller within 50 ms
BACKOFF_S_MAX = 1.0
LEFT_S_MIN = 0.005  # less than a round trip on a local network: an attempt could only fail


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


def backoff_s(attempts: int, rng: Random) -> float:
    """Return the wait before the next attempt at a node that is not known to be free.

    Full jitter: anywhere between none and the whole, so that calls which were
    refused together do not come back together.
    """
    return rng.random() * min(BACKOFF_S_MAX, BACKOFF_S * 2.0 ** (attempts - 1))

"""Until when a request may take, here and at the next hop.

Pure. Doors turn what a caller asked for into a deadline on this process's
monotonic clock; the router turns that back into time left for the wire.
"""

from __future__ import annotations

from mesh.errors import DeadlineExceeded


def deadline_s(now_s: float, asked_ms: int | None, default_s: float, max_s: float) -> float:
    """Return when a request that arrived at `now_s` must be answered.

    Args:
        now_s: monotonic seconds.
        asked_ms: time that the caller gives, milliseconds; None: not said.
        default_s: time where the caller names none.
        max_s: more is cut to this: nothing may hold a place for ever.

    Raises:
        DeadlineExceeded: no time is left.
    """
    if asked_ms is None:
        return now_s + min(default_s, max_s)
    if asked_ms <= 0:
        raise DeadlineExceeded(f"the deadline had passed on arrival: {asked_ms} ms were left")
    return now_s + min(asked_ms / 1000.0, max_s)


def left_ms(deadline_s: float, now_s: float) -> int:
    """Return the whole milliseconds left, at least 1; they are what travels to the next hop.

    Rounded down: a hop must never believe that it has more time than its caller.

    Raises:
        DeadlineExceeded: none are left.
    """
    if now_s >= deadline_s:
        raise exceeded()
    return max(1, int((deadline_s - now_s) * 1000.0))


def exceeded(where: str = "") -> DeadlineExceeded:
    """Return the error of a request whose time is over; `where` says what it was doing."""
    suffix = f" {where}" if where else ""
    return DeadlineExceeded(f"the deadline passed{suffix}")

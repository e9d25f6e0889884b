"""How many replicas a role should have now, from what its replicas say of themselves.

Pure. Each replica judges its own load with patience and tells "busy", "idle" or
neither; from these words, which gossip brings to all, every node counts the same.

    busy:  used above BUSY_SHARE for BUSY_S       all busy → one more
    idle:  used below IDLE_SHARE for idle_s       all idle → one less

Why it does not flap under a steady load U (in replicas): one is added only while
U / n > 0.8, and then U / (n + 1) >= 0.4; one goes only while U / n < 0.3, and then
U / (n - 1) < 0.6. Neither state calls for the other. A step starts every patience
anew, since the set of replicas is part of what a replica watches; and as all must say
the same, a newcomer's silence holds up the next step even where news is late.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import IntEnum

BUSY_SHARE = 0.8  # above it queues grow quickly
IDLE_SHARE = 0.3  # below half of BUSY_SHARE, see above
BUSY_S = 2.0  # a burst that ends sooner would be over before a replica has loaded
SMOOTH_S = 1.0  # time constant of the average: one long batch is no load


class Level(IntEnum):
    """What a replica says of its load."""

    IDLE = -1
    FINE = 0
    BUSY = 1


class Pressure:
    """The patience of one replica.

    Args:
        idle_s: how long it must be idle to say so.
    """

    __slots__ = ("_average", "_idle_s", "_others", "_seen_s", "_side", "_since_s")

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._average = 0.0
        self._seen_s = float("-inf")
        self._side = Level.FINE
        self._since_s = 0.0
        self._others: Hashable = None

    def observe(self, share: float, replicas: Hashable, now_s: float) -> Level:
        """Take in how much of the replica is used, and return what it says.

        Args:
            share: 0..1, of the time since the last look.
            replicas: who serves the role now; a change starts the patience anew.
            now_s: the time.
        """
        fading = min(1.0, max(0.0, now_s - self._seen_s) / SMOOTH_S)
        self._seen_s = now_s
        self._average += fading * (share - self._average)
        side = _side(self._average)
        if side != self._side or replicas != self._others:
            self._side, self._others, self._since_s = side, replicas, now_s
        wait_s = BUSY_S if side is Level.BUSY else self._idle_s
        return side if now_s - self._since_s >= wait_s else Level.FINE


def wanted(least: int, most: int, serving: int, busy: int, idle: int) -> int:
    """Return how many replicas a role should have.

    Args:
        least: never fewer.
        most: never more.
        serving: nodes that have it loaded.
        busy: of these, how many say that they are.
        idle: of these, how many say that they are.
    """
    assert 0 < least <= most
    count = serving
    if serving:
        count += (busy == serving) - (idle == serving)
    return min(most, max(least, count))


def _side(share: float) -> Level:
    if share > BUSY_SHARE:
        return Level.BUSY
    return Level.IDLE if share < IDLE_SHARE else Level.FINE

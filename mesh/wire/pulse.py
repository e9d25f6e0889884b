"""Whether the other side of a connection lives, how far it is, and how its clock differs.

Pure. `net.peer` ticks it about once a second and tells it what arrives. A network
that swallows packets reports nothing, so a side that stays silent although it was
pinged counts as gone.

The clock's offset is estimated as NTP does: of the last samples the one with the
shortest round trip counts, because it left the least room for an uneven way.

    offset = ((received - sent) + (replied - arrived)) / 2        wall clocks, theirs - ours
"""

from __future__ import annotations

from collections import deque

from mesh.wire.messages import Pong

TICK_S = 1.0
PING_INTERVAL_S = 1.0
QUIET_S = 2.0  # two pings unanswered: calls are asked elsewhere too, but nothing is given up
SILENCE_S = 6.0  # six pings: a loop that loads a large library may stand still for three seconds
LATE_S = 1.0  # a tick this late says that we ourselves stood still, so silence proves nothing
SAMPLES_MAX = 8


class Pulse:
    """The signs of life of one connection; times are monotonic seconds unless named `_at`.

    Attributes:
        is_quiet: whether the other side, as of the last tick, should have answered by now.
    """

    def __init__(self, now_s: float) -> None:
        self.rtt_s = 0.0
        self.offset_s = 0.0
        self.heard_s = now_s
        self.is_quiet = False
        self._ticked_s = now_s
        self._pinged_s = float("-inf")
        self._ping_id = 0
        self._sent: deque[tuple[int, float, float]] = deque(maxlen=SAMPLES_MAX)
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)  # rtt, offset

    def is_silent(self, now_s: float) -> bool:
        """Return whether the other side must be gone; to be asked at each tick."""
        was_late = now_s - self._ticked_s > TICK_S + LATE_S
        self._ticked_s = now_s
        if was_late:
            # What arrived meanwhile may still be in the socket.
            self.heard_s = now_s
        self.is_quiet = now_s - self.heard_s > QUIET_S
        return now_s - self.heard_s > SILENCE_S

    def is_ping_due(self, now_s: float) -> bool:
        """Return whether to `ping` now."""
        return now_s - self._pinged_s >= PING_INTERVAL_S

    def ping(self, now_s: float, now_at: float) -> int:
        """Return the id of the ping that is sent now."""
        self._ping_id += 1
        self._pinged_s = now_s
        self._sent.append((self._ping_id, now_s, now_at))
        return self._ping_id

    def receive(self, pong: Pong, now_s: float) -> None:
        """Take the answer to a ping; one that we did not send, or have forgotten, is skipped."""
        sent = next((each for each in self._sent if each[0] == pong.id), None)
        if sent is None:
            return
        _, sent_s, sent_at = sent
        took_s = now_s - sent_s
        held_s = pong.replied_at - pong.received_at
        arrived_at = sent_at + took_s
        offset_s = ((pong.received_at - sent_at) + (pong.replied_at - arrived_at)) / 2
        self._samples.append((max(0.0, took_s - held_s), offset_s))
        self.rtt_s, self.offset_s = min(self._samples)

"""Whether a queue is a burst that passes, or one that stands.

Pure. A burst empties within a few batches; a queue whose least wait over a whole
interval stays above the target only makes everybody late (CoDel's observation).
While it stands, the least urgent class is refused at once: told early, a batch
job can come back when there is room, and nobody who was let in is thrown out.

Source: Nichols, Jacobson, "Controlling Queue Delay", 2012; decided on arrival here,
because who is refused should hear of it in milliseconds.
"""

from __future__ import annotations

TARGET_S_MIN = 0.01  # waits below this are noise
INTERVALS = 20.0  # targets per interval; CoDel has 5 ms and 100 ms


class Standing:
    """Watches the waits of what leaves a queue."""

    __slots__ = ("_until_s", "is_standing")

    def __init__(self) -> None:
        self._until_s = -1.0
        self.is_standing = False

    def took(self, waited_s: float, target_s: float, now_s: float) -> None:
        """Note the wait of the least urgent item of a batch that leaves.

        Args:
            waited_s: how long that item was in the queue.
            target_s: what is fine: about one batch.
            now_s: monotonic seconds.
        """
        target_s = max(TARGET_S_MIN, target_s)
        if waited_s <= target_s:
            self.is_standing = False
            self._until_s = -1.0
        elif self._until_s < 0.0:
            self._until_s = now_s + INTERVALS * target_s
        elif now_s >= self._until_s:
            self.is_standing = True

    def emptied(self) -> None:
        """Note that nothing waits."""
        self.is_standing = False
        self._until_s = -1.0

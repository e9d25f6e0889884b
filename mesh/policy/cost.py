"""How long a batch will take: a base, and so much per unit of cost, learnt from those that ran.

Pure. The batch former estimates waiting time with it, which refuses hopeless
requests, tells callers when to come back, and tells other nodes how busy this
one is.

    seconds = base_s + unit_s * cost        least squares over recent batches
"""

from __future__ import annotations

from math import ceil

_MEMORY = (
    0.97  # weight kept per batch: about the last 33 count, so a slower machine shows in seconds
)


class CostModel:
    """Running least squares with forgetting."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self.base_s = 0.0
        self.unit_s = 0.0

    @property
    def is_known(self) -> bool:
        """Whether anything has been measured yet."""
        return self._n > 0.0

    def observe(self, cost: float, ran_s: float) -> None:
        """Learn from one batch."""
        self._n = self._n * _MEMORY + 1.0
        self._x = self._x * _MEMORY + cost
        self._y = self._y * _MEMORY + ran_s
        self._xx = self._xx * _MEMORY + cost * cost
        self._xy = self._xy * _MEMORY + cost * ran_s
        self._fit()

    def batch_s(self, cost: float) -> float:
        """Return the expected seconds of one batch of this cost."""
        return self.base_s + self.unit_s * cost

    def work_s(self, items: int, cost: float, items_max: int, cost_max: int) -> float:
        """Return the expected seconds of all that waits, when it runs in batches of such limits."""
        if not items:
            return 0.0
        batches = ceil(items / items_max)
        if cost_max:
            batches = max(batches, ceil(cost / cost_max))
        return batches * self.base_s + self.unit_s * cost

    def _fit(self) -> None:
        mean_x, mean_y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - mean_x * mean_x
        if spread > 1e-9 * (1.0 + mean_x * mean_x):
            self.unit_s = max(0.0, (self._xy / self._n - mean_x * mean_y) / spread)
            self.base_s = mean_y - self.unit_s * mean_x
            if self.base_s >= 0.0:
                return
        # Equal costs cannot tell base from unit, and a negative base is noise: all is per unit.
        self.base_s = 0.0
        self.unit_s = mean_y / mean_x if mean_x > 0.0 else 0.0

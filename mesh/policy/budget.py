"""How many extra calls may be made: a small share of the calls themselves.

Pure. Retries of refused calls and hedges are extra load, and most are wanted just
when there is no room for them; a bucket of tokens keeps them a share of what is
asked. Calls that fail over because their node was lost are not extra load: that
node no longer works on them.

Source: Finagle's RetryBudget and gRPC's retry throttling (A6) have this form.
"""

from __future__ import annotations

from collections.abc import Callable

RETRY_SHARE = 0.1  # ten per cent of the calls; 20 would let three nodes talk each other down
RETRY_FLOOR_PER_S = 1.0  # so that a rare call may be retried at all
HEDGE_SHARE = 0.05  # a hedge after p95 is wanted by one call in twenty
HEDGE_FLOOR_PER_S = 0.1
TOKENS_MAX = 10.0  # what a quiet time saves up


class Budget:
    """Tokens of one kind of extra call for one role.

    Args:
        share: what each call adds.
        floor_per_s: what each second adds.
        now_s: monotonic seconds.
    """

    __slots__ = ("_at_s", "_floor_per_s", "_share", "refused", "spent", "tokens")

    def __init__(self, share: float, floor_per_s: float, now_s: float) -> None:
        self._share = share
        self._floor_per_s = floor_per_s
        self._at_s = now_s
        self.tokens = TOKENS_MAX
        self.spent = 0
        self.refused = 0

    def earn(self) -> None:
        """Count a first attempt."""
        self.tokens = min(TOKENS_MAX, self.tokens + self._share)

    def try_spend(self, now_s: float) -> bool:
        """Take a token for one extra call; False if there is none."""
        self.tokens = min(TOKENS_MAX, self.tokens + (now_s - self._at_s) * self._floor_per_s)
        self._at_s = now_s
        if self.tokens < 1.0:
            self.refused += 1
            return False
        self.tokens -= 1.0
        self.spent += 1
        return True


class Budgets:
    """One kind of extra call: a budget for each role.

    Args:
        share: what each call adds.
        floor_per_s: what each second adds.
        clock: monotonic seconds.
    """

    __slots__ = ("_clock", "_floor_per_s", "_of", "_share")

    def __init__(self, share: float, floor_per_s: float, clock: Callable[[], float]) -> None:
        self._share = share
        self._floor_per_s = floor_per_s
        self._clock = clock
        self._of: dict[str, Budget] = {}

    def of(self, role: str) -> Budget:
        """Return the budget of a role."""
        found = self._of.get(role)
        if found is None:
            found = self._of[role] = Budget(self._share, self._floor_per_s, self._clock())
        return found

    @property
    def spent(self) -> int:
        """Extra calls that were made."""
        return sum(budget.spent for budget in self._of.values())

    @property
    def refused(self) -> int:
        """Extra calls that were not."""
        return sum(budget.refused for budget in self._of.values())

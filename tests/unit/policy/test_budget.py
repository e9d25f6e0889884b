"""Extra calls stay a share of the calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.policy.budget import TOKENS_MAX, Budget


def test_what_is_saved_up_is_limited():
    budget = Budget(0.1, 1.0, 0.0)
    for _ in range(1000):
        budget.earn()
    spent = sum(budget.try_spend(0.0) for _ in range(100))
    assert spent == TOKENS_MAX
    assert budget.refused == 100 - TOKENS_MAX


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, False), (1.0, True)])
def test_time_gives_a_floor(seconds, expected):
    budget = Budget(0.1, 1.0, 0.0)
    while budget.try_spend(0.0):
        pass
    assert budget.try_spend(seconds) is expected


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50))), st.floats(0.01, 0.5))
def test_extra_calls_never_exceed_their_share(rounds, share):
    """Spent is at most what was saved up at first plus the share of all calls."""
    budget, calls = Budget(share, 0.0, 0.0), 0
    for earned, wanted in rounds:
        for _ in range(earned):
            budget.earn()
        calls += earned
        for _ in range(wanted):
            budget.try_spend(0.0)
        assert budget.spent <= TOKENS_MAX + share * calls + 1e-6

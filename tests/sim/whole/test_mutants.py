"""Every seeded bug of the request layer is caught: the laws can fail."""

from __future__ import annotations

import logging

import pytest

from tests.sim.whole.campaign import draw, run_campaign, shrink, verdict
from tests.sim.whole.mutants import MUTANTS
from tests.sim.whole.town import played

MORE_SEEDS = 6  # in case that a change elsewhere has let the named seed pass


@pytest.fixture(autouse=True)
def _quiet():
    """Many nodes die here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_seeded_bug_is_caught(name):
    seed, trap = MUTANTS[name]
    with trap(), played():
        _, broken = run_campaign((seed, *range(MORE_SEEDS)), is_first_enough=True)
    assert broken


@pytest.mark.slow
def test_a_failure_shrinks_to_what_it_needs():
    """A client and no fault, where every call is given too much time."""
    _, trap = MUTANTS["gives more time"]
    with trap(), played():
        small = shrink(draw(0))
        assert verdict(small)
    assert not small.faults
    assert len(small.unasked) > 0

"""Random meshes under requests keep every law; a failure prints its seed and what that decided."""

from __future__ import annotations

import logging

import pytest

from tests.sim.whole.campaign import draw, play, run_campaign
from tests.sim.whole.town import played

WORLDS, BATCHES = 16, 4


@pytest.fixture(autouse=True)
def _played():
    """Virtual clocks for production modules, and quiet: many nodes die here."""
    logging.disable(logging.CRITICAL)
    with played():
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_meshes_keep_every_law(batch):
    size = WORLDS // BATCHES
    failures: list[str] = []
    run_campaign(
        range(batch * size, (batch + 1) * size),
        failed=lambda script, why: failures.append(f"{script}\n{why}"),
    )
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
def test_equal_seeds_give_equal_runs():
    """Whatever the tale tells: a seed that failed fails again."""
    first, second = play(draw(3)), play(draw(3))
    assert first.tales == second.tales
    assert first.counts == second.counts

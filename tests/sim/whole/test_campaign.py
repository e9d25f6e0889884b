"""Random meshes under requests keep every law; a failure prints its seed and what that decided."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from tests.sim.whole.campaign import MUST_HAPPEN, RARE, draw, play, run_campaign
from tests.sim.whole.town import played

WORLDS, BATCHES = 20, 10


@pytest.fixture(autouse=True)
def _played():
    """Virtual clocks for production modules, and quiet: many nodes die here."""
    logging.disable(logging.CRITICAL)
    with played():
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    """What all batches together have seen."""
    return Counter()


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_meshes_keep_every_law(batch, seen):
    size = WORLDS // BATCHES
    failures: list[str] = []
    found, _ = run_campaign(
        range(batch * size, (batch + 1) * size),
        failed=lambda script, why: failures.append(f"{script}\n{why}"),
    )
    seen.update(found)
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
def test_the_campaign_was_not_empty(seen):
    """Every fault and every way of a request has happened, or the silence above means nothing."""
    if seen["worlds.steady"] == 0:
        pytest.skip("the meshes were not played in this process")
    assert not MUST_HAPPEN - RARE - set(+seen)


@pytest.mark.slow
def test_equal_seeds_give_equal_runs():
    """A seed that failed fails again, event by event."""
    first, second = play(draw(3)), play(draw(3))
    assert first.tales == second.tales
    assert first.counts == second.counts

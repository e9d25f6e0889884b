"""Random worlds keep every law; a failure prints its seed and what that seed decided."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.campaign import MUST_HAPPEN, Script, draw, play, run_campaign, shrink, verdict
from tests.sim.mutants import MUTANTS

WORLDS, BATCHES = 200, 10


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    """What all batches together have seen."""
    return Counter()


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_worlds_keep_every_law(batch, seen):
    size = WORLDS // BATCHES
    seeds = range(batch * size, (batch + 1) * size)
    failures: list[str] = []
    found, _ = run_campaign(seeds, failed=lambda script, why: failures.append(f"{script}\n{why}"))
    seen.update(found)
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
def test_the_campaign_was_not_empty(seen):
    """Every fault and every verdict has happened, or the silence above means nothing."""
    if seen["fault.crash"] == 0:
        pytest.skip("the worlds were not played in this process")
    assert not MUST_HAPPEN - set(+seen)


@pytest.mark.parametrize("seed", [3, 17])
def test_equal_seeds_give_equal_runs(seed):
    first, second = play(draw(seed)), play(draw(seed))
    assert first.notices == second.notices
    assert first.counts == second.counts


@pytest.mark.slow
def test_failures_shrink():
    """What is left of a script still fails, and has no fault to spare."""
    machine, _ = MUTANTS["never refutes"]
    script = next(one for one in map(draw, range(20)) if verdict(one, machine))
    small = shrink(script, machine)
    assert verdict(small, machine)
    assert len(small.faults) <= len(script.faults)
    assert isinstance(small, Script)

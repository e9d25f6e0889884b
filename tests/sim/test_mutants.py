"""Every seeded bug is caught: the suite can fail."""

from __future__ import annotations

import pytest

from tests.sim.campaign import run_campaign
from tests.sim.mutants import MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_seeded_bug_is_caught(name):
    machine, scenario = MUTANTS[name]
    with pytest.raises(AssertionError):
        scenario(machine)


@pytest.mark.parametrize("name", ["never refutes", "raises the dead", "mingles meshes"])
def test_random_worlds_catch_it_too(name):
    machine, _ = MUTANTS[name]
    _, broken = run_campaign(range(6), machine)
    assert broken

"""The mesh does what it promises, in time, in virtual time."""

from __future__ import annotations

import pytest

from mesh.gossip.swim import Swim
from tests.sim.scenarios import SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_mesh_keeps_its_promise(scenario):
    scenario(Swim)

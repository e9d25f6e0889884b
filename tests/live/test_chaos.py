"""A node killed, stopped or restarted under load costs no request and no piece of a stream."""

from __future__ import annotations

import asyncio

import pytest

from tools.chaos.calm import crunch
from tools.chaos.faults import FAULTS
from tools.chaos.scene import open_scene

pytestmark = [pytest.mark.live, pytest.mark.slow]

RECOVER_S_MAX = 8.0  # `make chaos` asks for 1 and 5; here the machine runs other tests too


@pytest.mark.timeout(90)
def test_faults_cost_nothing(tmp_path):
    """`make chaos` does all of them, and with a network of its own; here the shortest three."""

    async def main():
        async with open_scene(tmp_path, None, count=4, calls_s=30.0, streams_s=4.0) as scene:
            for fault in FAULTS:
                if fault.is_short:
                    row = await scene.play(fault.name, lambda f=fault: f.act(scene))
                    assert (row.failed, row.doubled) == (0, 0), row
                    assert row.requests > 100
                    assert row.recover_s <= RECOVER_S_MAX, row

    asyncio.run(main())


@pytest.mark.timeout(90)
def test_nobody_is_suspected_while_all_compute(tmp_path):
    """Lanes compute, doors answer, gossip goes on; `make chaos` does it for longer, and the demo.

    How late loops wake is asserted there: here the machine runs other tests too.
    """

    async def main():
        async with open_scene(tmp_path, None, count=3, calls_s=60.0, streams_s=4.0) as scene:
            scene.minutes = 3.0 / 60.0
            findings = {one.what: one for one in await crunch(scene)}
            assert findings["computing: requests"].found > 100
            assert findings["computing: failed"].holds
            assert findings["computing: suspicions and dead verdicts"].holds
            assert findings["computing: loop lag of n0, p99 ms"].found > 0.0

    asyncio.run(main())

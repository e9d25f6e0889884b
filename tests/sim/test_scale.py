"""Large meshes: the programs of `scale` run, on a small sample of what they are for."""

from __future__ import annotations

import pytest

from tests.sim.scale import accuracy, table


@pytest.mark.slow
def test_fifty_nodes_in_rough_weather_lose_nobody():
    assert 0 == accuracy(50, minutes=0.5, seed=1, loss=0.1, delay_s=0.1)


def test_the_table_has_a_line_per_size(capsys):
    table([2, 4], seeds=1, loss=0.0, delay_s=0.001)
    lines = capsys.readouterr().out.splitlines()
    assert ["nodes", "2", "4"] == [line.split()[0] for line in lines]
    assert "inf" not in "".join(lines)

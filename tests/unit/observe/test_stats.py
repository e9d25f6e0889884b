"""The process is measured, and quantiles are values that were seen."""

from __future__ import annotations

import pytest

from mesh.observe.stats import LAG_EVERY_S, Lag, Process, Times, quantile

TABLE = [
    ([], 0.5, 0.0),
    ([7.0], 0.0, 7.0),
    ([7.0], 0.99, 7.0),
    ([1.0, 2.0, 3.0, 4.0], 0.5, 3.0),
    ([float(n) for n in range(100)], 0.99, 99.0),
]


@pytest.mark.parametrize(("ordered", "share", "expected"), TABLE)
def test_quantile_is_an_observed_value(ordered, share, expected):
    assert expected == quantile(ordered, share)


def test_times_count_all_and_keep_the_latest():
    times = Times(samples_max=2)
    for ms in (100.0, 1.0, 2.0):
        times.add(ms)
    assert times.statistics() == {"count": 3, "p50_ms": 2.0, "p95_ms": 2.0, "p99_ms": 2.0}


def test_process_knows_its_size():
    lag = Lag()
    found = Process(lag).statistics()
    assert found["rss_bytes"] > 1 << 20
    assert found["threads"] >= 1
    assert found["loop_lag_ms"] == {"p50": 0.0, "p99": 0.0, "max": 0.0}
    assert LAG_EVERY_S < 1.0

"""The figures of a run follow from its samples, and a run that measured itself is refused."""

from __future__ import annotations

import pytest

from tools.loadgen.plan import Load
from tools.loadgen.sample import FAILURES, Sample, StageTime, class_of_status
from tools.loadgen.summary import is_thin, percentile, summarize


def sample(n, *, latency_s=0.1, lag_s=0.0, failure="", node="n0"):
    return Sample("infer", n * 0.01, n * 0.01 + lag_s, n * 0.01 + latency_s, failure, node)


def test_percentile_is_the_nearest_rank():
    values = list(range(1, 101))
    table = {0.0: 1, 0.5: 50, 0.95: 95, 0.99: 99, 1.0: 100}
    assert table == {share: percentile(values, share) for share in table}


def test_counts_add_up():
    samples = [sample(n, failure="timeout" if n % 10 == 0 else "") for n in range(100)]
    found = summarize(Load(requests=100), samples, wall_s=2.0)
    assert (100, 90, 10) == (
        found["total_requests"],
        found["successful_requests"],
        found["failed_requests"],
    )
    assert {"timeout": 10} == found["failures"]
    assert 45.0 == found["throughput"]
    assert 90 == sum(count for _, count in found["histogram"])
    assert 100 == sum(row["started"] for row in found["timeline"])


def test_the_file_has_the_keys_that_its_readers_know():
    """Those of earlier load tests, whose scripts read `benchmark_results.json`."""
    found = summarize(Load(requests=4), [sample(n, node="n0") for n in range(4)], 1.0)
    assert {"mean", "median", "p50", "p95", "p99", "min", "max", "std"} <= found["latency"].keys()
    assert {"total_time", "throughput", "node_distribution"} <= found.keys()


def test_latency_counts_from_the_intended_start():
    """A request that this program could not send in time has waited all the same."""
    found = summarize(Load(rate=100.0, seconds=1.0), [sample(0, latency_s=3.0, lag_s=2.9)], 1.0)
    assert found["latency"]["max"] == pytest.approx(3000.0)
    assert found["service"]["max"] == pytest.approx(100.0)


def test_late_sender_makes_an_open_run_invalid():
    load = Load(rate=100.0, seconds=1.0)
    late = [sample(n, lag_s=0.05 if n % 20 == 0 else 0.0) for n in range(100)]
    assert [] == summarize(load, [sample(n) for n in range(100)], 1.0)["invalid"]
    assert summarize(load, late, 1.0)["invalid"]


def test_busy_sender_makes_any_run_invalid():
    assert summarize(Load(requests=1), [sample(0)], 1.0, [0.97])["invalid"]


def test_dropped_requests_make_an_open_run_invalid():
    samples = [sample(n, failure="client_dropped" if n < 5 else "") for n in range(100)]
    assert summarize(Load(rate=100.0, seconds=1.0), samples, 1.0)["invalid"]


def test_balance_is_the_spread_of_the_counts():
    samples = [sample(n, node=f"n{n % 2}") for n in range(100)]
    found = summarize(Load(requests=100), samples, 1.0)
    assert {"n0": 50, "n1": 50} == found["node_distribution"]
    assert 0.0 == found["load_balance_percent"]


def test_stages_are_averaged_in_order():
    stages = (StageTime("embed", "n0", 1.0, 2.0, 0.5), StageTime("generate", "n2", 0.0, 90.0))
    samples = [Sample("pipeline", 0.0, 0.0, 0.1, stages=stages) for _ in range(3)]
    found = summarize(Load(requests=3), samples, 1.0)["stages"]
    assert ["embed", "generate"] == [one["name"] for one in found]
    assert 90.0 == found[1]["ran_ms"]


def test_time_to_first_token_is_no_gap_between_tokens():
    stream = Sample("chat", 0.0, 0.0, 1.0, first_s=0.7, gaps_s=(0.1, 0.2), tokens=3)
    found = summarize(Load(requests=1), [stream], 1.0)
    assert 700.0 == pytest.approx(found["first_token"]["max"])
    assert 200.0 == pytest.approx(found["between_tokens"]["max"])


def test_few_samples_are_called_few():
    assert is_thin(999, 0.99)
    assert not is_thin(1000, 0.99)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, ""), (404, "http_4xx"), (429, "http_429"), (500, "http_5xx"), (503, "http_503")],
)
def test_each_status_has_a_class(status, expected):
    assert expected == class_of_status(status)
    assert not expected or expected in FAILURES

"""What a node used under load is the difference of two looks at it."""

from __future__ import annotations

from tools.loadgen.watch import Watch, row_of


def stats(*, cpu_s, sent, batches):
    return {
        "node": "n0",
        "process": {"rss_bytes": 100, "cpu_seconds": cpu_s, "loop_lag_ms": {"p99": 1.0}},
        "peers": {"127.0.0.1:1": {"node": "n1", "bytes_out": sent}},
        "roles": {"embed": {"batch_sizes": batches}, "other": {}},
    }


def test_summary_is_per_request():
    watch = Watch({})
    watch.rows = [
        row_of(stats(cpu_s=1.0, sent=100, batches={"1": 5}), 0.0),
        row_of(stats(cpu_s=3.0, sent=2100, batches={"1": 5, "4": 7}), 9.0),
    ]
    found = watch.summary(requests=100)["nodes"]["n0"]
    assert 20.0 == found["cpu_ms_per_request"]
    assert {"n1": 20.0} == found["sent_bytes_per_request"]
    assert {"embed": {"4": 7}} == found["batch_sizes"]


def test_a_node_that_was_started_again_did_not_use_less_than_nothing():
    """Its totals begin anew: what it used before and after both count."""
    watch = Watch({})
    watch.rows = [
        row_of(stats(cpu_s=5.0, sent=900, batches={"1": 50}), 0.0),
        row_of(stats(cpu_s=6.0, sent=1000, batches={"1": 60}), 1.0),
        row_of(stats(cpu_s=0.5, sent=30, batches={"2": 3}), 2.0),
        row_of(stats(cpu_s=1.0, sent=60, batches={"2": 8}), 3.0),
    ]
    found = watch.summary(requests=10)["nodes"]["n0"]
    assert 200.0 == found["cpu_ms_per_request"]
    assert {"n1": 16.0} == found["sent_bytes_per_request"]
    assert {"embed": {"1": 10, "2": 8}} == found["batch_sizes"]


def test_a_server_without_such_a_page_says_nothing():
    assert {"nodes": {}, "watch": []} == Watch({}).summary(requests=0)

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


def test_a_server_without_such_a_page_says_nothing():
    assert {"nodes": {}, "watch": []} == Watch({}).summary(requests=0)

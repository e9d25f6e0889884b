"""Every metric has help, a unit and few labels; traces are counted by stage."""

from __future__ import annotations

import re

from mesh.observe.metrics import Metrics

UNITS = ("seconds", "bytes", "total", "items", "active", "nodes", "ratio")
STAGE = {
    "name": "embed", "role": "embed", "node": "n0", "queued_ms": 1.0, "ran_ms": 2.0,
    "network_ms": 3.0, "batch_size": 4, "attempts": 2, "cached": False,
}  # fmt: skip


def test_names_have_prefix_unit_and_help():
    for metric in Metrics().registry.collect():
        name = metric.name if metric.type != "counter" else f"{metric.name}_total"
        assert re.fullmatch(r"mesh_[a-z_]+", name)
        assert name.endswith(UNITS), name
        assert metric.documentation.endswith("."), name


def test_two_nodes_of_one_process_count_apart():
    one, other = Metrics(), Metrics()
    one.http_active += 1
    assert b"mesh_http_requests_active 1.0" in one.text()
    assert b"mesh_http_requests_active 0.0" in other.text()


def test_trace_is_counted_by_stage():
    metrics = Metrics()
    metrics.observe_trace("ask", {"id": "x", "total_ms": 1500.0, "stages": [STAGE]})
    text = metrics.text().decode()
    assert 'mesh_pipeline_seconds_sum{pipeline="ask"} 1.5' in text
    assert 'mesh_stage_seconds_sum{part="ran",role="embed"} 0.002' in text
    assert 'mesh_stage_attempts_total{role="embed"} 2.0' in text
    assert 'mesh_stage_batch_items_bucket{le="4.0",role="embed"} 1.0' in text


def test_values_of_other_parts_are_read_at_the_scrape():
    metrics, values = Metrics(), {"n0": 1.0}
    metrics.add_gauge(
        "mesh_x_nodes", "X.", ("node",), lambda: [((n,), v) for n, v in values.items()]
    )
    metrics.add_counter("mesh_y_items", "Y.", (), lambda: [((), 7)])
    values["n0"] = 2.0
    assert 'mesh_x_nodes{node="n0"} 2.0' in metrics.text().decode()
    assert "mesh_y_items_total 7.0" in metrics.text().decode()

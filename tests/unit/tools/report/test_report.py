"""A report says what the results say, holds everything itself, and names nothing outside."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest

from tools.loadgen.plan import Load
from tools.loadgen.sample import Sample, StageTime
from tools.loadgen.summary import summarize
from tools.report import page
from tools.report.runs import named_apart, percentiles, read, with_events

PROJECT = Path(__file__).resolve().parents[4]


def run(name="one", *, count=200, failed=0):
    stage = StageTime("embed", "n0", 1.0, 2.0, 3.0, 4)
    samples = [
        Sample("pipeline", n * 0.05, n * 0.05, n * 0.05 + 0.01 + n * 0.001,
               "timeout" if n < failed else "", stages=(stage,))
        for n in range(count)
    ]  # fmt: skip
    found = summarize(Load(name, requests=count), samples, count * 0.05)
    watch = [{"at_s": float(n), "node": "n0", "rss_bytes": 10**8 + n} for n in range(3)]
    node = {"rss_bytes_max": 10**8, "cpu_ms_per_request": 1.0, "sent_bytes_per_request": {}}
    nodes = {"n0": {**node, "batch_sizes": {"embed": {"1": 4, "8": 2}}}}
    return {**found, "watch": watch, "nodes": nodes, "began_at": "2026-01-01T00:00:00+00:00"}


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.json"
    document = {"phases": [run(), run("two", failed=3)], "environment": {"cores": 2}}
    path.write_bytes(orjson.dumps(document))
    return path


class Links(HTMLParser):
    """Collects what a page refers to, and its pictures without a text."""

    def __init__(self):
        super().__init__()
        self.outside, self.silent, self.scripts = [], 0, 0

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.scripts += tag == "script"
        self.silent += tag == "img" and not attrs.get("alt")
        for name in ("src", "href"):
            if name in attrs and not attrs[name].startswith("data:"):
                self.outside.append(attrs[name])


def test_page_holds_everything_itself(results):
    runs = read(results)
    links = Links()
    links.feed(page.html("A & <b>", runs, [("a.png", "a caption", b"png")]))
    assert ([], 0, 0) == (links.outside, links.silent, links.scripts)


def test_table_says_what_the_results_say(results):
    runs = read(results)
    text = page.html("t", runs, [])
    for one in runs:
        assert f"<td>{page.shown(one['throughput'])}</td>" in text
        assert f"<td>{page.shown(one['latency']['median'])}</td>" in text
    assert "400 requests in 2 runs, 3 failed" in text
    assert "<b>" not in page.html("<b>", runs, [])


def test_percentile_of_too_few_is_left_out():
    heads, cells = page.heads(), page.cells({**run(count=100), "environment": {}})
    assert "" == cells[heads.index("p99")]
    assert "" != cells[heads.index("p50")]


def test_percentiles_come_from_the_histogram():
    rows = [(0.001, 50), (0.002, 49), (0.5, 1)]
    assert [1.0, 2.0, 500.0] == percentiles(rows, [0.5, 0.99, 1.0])


def test_equal_names_are_told_apart():
    runs = [{"name": "a", "file": "x.json"}, {"name": "a", "file": "y.json"},
            {"name": "a", "file": "y.json"}]  # fmt: skip
    names = [one["name"] for one in named_apart(runs)]
    assert len(set(names)) == 3


def test_events_fall_into_the_run_that_had_begun(tmp_path):
    """By the clock of the world, or by a run's own."""
    runs = [run(), {**run("two"), "began_at": "2026-01-01T00:01:00+00:00"}]
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"at": "2026-01-01T00:00:07+00:00", "text": "back"}\n{"at_s": 2, "text": "gone"}\n'
        '{"at": "2026-01-01T00:01:03+00:00", "text": "late"}\n'
        '{"at_s": 1, "run": "two", "text": "named"}\n'
    )
    first, second = with_events(runs, path)
    assert [(2.0, "gone"), (7.0, "back")] == first["events"]
    assert [(1.0, "named"), (3.0, "late")] == second["events"]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"text": "x"}', '{"at_s": 1, "text": "x", "run": "?"}']
)
def test_a_line_that_is_no_event_is_named(line, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(f'{{"at_s": 2, "text": "gone"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"events\.jsonl:2"):
        with_events([run()], path)


@pytest.mark.slow
def test_every_picture_is_drawn(results, tmp_path):
    """As a user runs it; also where nothing was answered."""
    dead = tmp_path / "dead.json"
    dead.write_bytes(orjson.dumps({"phases": [run("dead", count=40, failed=40)]}))
    out = tmp_path / "report"
    done = subprocess.run(
        [sys.executable, "-m", "tools.report", str(results), str(dead), "--out", str(out)],
        cwd=PROJECT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = {path.name for path in out.iterdir()}
    assert {
        "latency_distribution.png",
        "node_distribution.png",
        "performance_comparison.png",
    } < made
    assert {"timeline.png", "stages.png", "batch_sizes.png", "memory.png"} < made
    assert len(re.findall("data:image/png", (out / "report.html").read_text())) == 7
    assert "Total Requests" in (out / "performance_report.txt").read_text()

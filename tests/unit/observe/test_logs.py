"""Events are one JSON line each, whoever logs them, and never more than asked for."""

from __future__ import annotations

import io
import json
import logging

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from mesh.observe import logs


@pytest.fixture
def lines():
    """Yield what was logged; the loggers are put back afterwards."""
    root, mesh = logging.getLogger(), logging.getLogger("mesh")
    before = root.handlers[:], root.level, mesh.level
    stream = io.StringIO()
    logs.configure("info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], (root.level, mesh.level) = before[0], before[1:]
    mesh.setLevel(before[2])
    root.setLevel(before[1])


def test_event_carries_bound_and_own_fields(lines):
    logs.named("mesh.x", node="n0").info("member.joined", name="n1")
    line = lines()[0]
    assert (line["event"], line["node"], line["name"]) == ("member.joined", "n0", "n1")
    assert (line["level"], line["log"]) == ("info", "mesh.x")
    assert line["at"].endswith("+00:00")


def test_fields_of_plain_logging_are_kept(lines):
    logging.getLogger("mesh.y").warning("role.slow", extra={"role": "embed"})
    assert lines()[0]["role"] == "embed"


def test_debug_is_not_written_at_info(lines):
    logs.named("mesh.x").debug("packet.sent")
    assert lines() == []


def test_long_fields_are_cut_and_errors_bring_their_traceback(lines):
    try:
        raise ValueError("broken")
    except ValueError as error:
        logs.named("mesh.x").error("task.crashed", error, text="x" * 5000)
    line = lines()[0]
    assert len(line["text"]) == logs.FIELD_CHARS_MAX + 1
    assert "ValueError: broken" in line["traceback"]


def test_a_callers_broken_bytes_are_no_event_and_our_faults_are(lines):
    for error in (BadHttpMessage("no host"), KeyError("ours")):
        logging.getLogger("aiohttp.server").error("Error handling request", exc_info=error)
    (line,) = lines()
    assert "KeyError" in line["traceback"]


def test_quota_allows_so_many_a_second_and_counts_the_rest():
    quota = logs.Quota(2)
    taken = [quota.take(now_s) for now_s in (10.0, 10.0, 10.0, 10.1, 10.6, 10.6)]
    assert taken == [0, 0, None, None, 2, None]


def test_quota_of_nothing_allows_nothing():
    quota = logs.Quota(0)
    assert [quota.take(now_s) for now_s in (0.0, 100.0)] == [None, None]

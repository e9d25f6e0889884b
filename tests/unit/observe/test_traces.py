"""Traces are kept up to a limit, and a caller's trace context goes on."""

from __future__ import annotations

import re

import pytest

from mesh.observe.traces import Traces, begun, continued

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_oldest_trace_is_forgotten_first():
    traces = Traces(2)
    for name in ("a", "b", "a", "c"):
        traces.add({"id": name})
    assert [traces.get(name) is not None for name in ("a", "b", "c")] == [True, False, True]
    assert len(traces) == 2


def test_context_keeps_trace_and_flags_and_makes_a_new_parent():
    got = continued(f"00-{TRACE_ID}-00f067aa0ba902b7-00")
    assert re.fullmatch(f"00-{TRACE_ID}-[0-9a-f]{{16}}-00", got)
    assert "00f067aa0ba902b7" not in got


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", f"ff-{TRACE_ID}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01",
     f"00-{TRACE_ID}-{'0' * 16}-01", f"00-{TRACE_ID.upper()}-00f067aa0ba902b7-01"],
)  # fmt: skip
def test_bad_context_starts_a_new_trace(header):
    got = continued(header)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", got)
    assert TRACE_ID not in got


def test_a_request_without_context_begins_one_trace():
    """Every hop of it belongs together, and it is well formed."""
    assert begun("r1") == begun("r1") != begun("r2")
    assert continued(begun("r1"))[:36] == begun("r1")[:36]

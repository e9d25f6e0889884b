"""A schedule is drawn once, keeps its rate, and is divided without loss."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.loadgen.__main__ import arguments, plan
from tools.loadgen.plan import Load, shares, split, starts

PROJECT = Path(__file__).resolve().parents[4]


@given(total=st.integers(0, 10_000), parts=st.integers(1, 64))
def test_shares_differ_by_at_most_one(total, parts):
    """Nothing is lost, and nobody gets two more than another."""
    found = shares(total, parts)
    assert sum(found) == total
    assert max(found) - min(found) <= 1


@given(
    rate=st.floats(1, 500),
    seed=st.integers(0, 99),
    processes=st.integers(1, 5),
    arrival=st.sampled_from(["poisson", "constant"]),
)
def test_open_schedule_is_split_without_loss(rate, seed, processes, arrival):
    """The parts' starts, merged, are the schedule; numbers are unique over the parts."""
    load = Load(rate=rate, seconds=2.0, arrival=arrival)
    works = split(load, processes, seed)
    assert starts(load, seed) == sorted(one for work in works for one in work.starts)
    numbers = [work.first + n * work.stride for work in works for n in range(len(work.starts))]
    assert len(numbers) == len(set(numbers))


@given(requests=st.integers(1, 500), slots=st.integers(1, 64), processes=st.integers(1, 8))
def test_closed_loop_is_split_without_loss(requests, slots, processes):
    """All requests and all slots are given out, and no part is idle."""
    works = split(Load(requests=requests, concurrent=slots), processes, seed=1)
    assert requests == sum(work.load.requests for work in works)
    assert slots == sum(work.load.concurrent for work in works)
    assert all(work.load.requests and work.load.concurrent for work in works)


def test_constant_arrivals_are_evenly_spaced():
    found = starts(Load(rate=4.0, seconds=1.0, arrival="constant"), seed=1)
    assert [0.25, 0.5, 0.75, 1.0] == pytest.approx(found)


def test_poisson_arrivals_keep_their_rate():
    """Ten thousand of them: the count is within four standard deviations of the rate."""
    found = starts(Load(rate=100.0, seconds=100.0), seed=7)
    assert abs(len(found) - 10_000) < 4 * 100
    gaps = [after - before for before, after in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert pytest.approx(1.0, abs=0.1) == variance**0.5 / mean  # exponential gaps: CV 1


@pytest.mark.parametrize(
    "load",
    [
        Load(),
        Load(rate=5.0),
        Load(requests=-1),
        Load(requests=1, concurrent=0),
        Load(requests=1, arrival="weekly"),
    ],
)
def test_a_load_that_cannot_be_says_why(load):
    assert load.problems()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--target nope", "http://HOST:PORT"),
        ("--target ftp://a", "http://HOST:PORT"),
        ("--timeout 0", "more than 0"),
        ("--processes 0", "more than 0"),
        ("--out /nowhere/at/all.json", "no folder"),
        ("--kind infer --shape 1,x", "whole numbers"),
        ("--rate 5", "seconds or requests"),
    ],
)
def test_a_command_line_that_cannot_be_says_why(options, reason):
    """Before anything is sent."""
    with pytest.raises(ValueError, match=reason):
        plan(arguments().parse_args(options.split()))


def test_the_scenario_of_the_examples_can_be_run():
    """`bench/mixed.toml`: several kinds of requests in a mix, and phases of both loops."""
    crew, loads = plan(arguments().parse_args(["--scenario", str(PROJECT / "bench/mixed.toml")]))
    assert {"pipeline", "query", "chat"} == {what.kind for what in crew.mix}
    assert {True, False} == {load.is_open for load in loads}

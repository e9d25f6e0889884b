"""A burst is let through; a queue that stands is seen after an interval, and forgiven at once."""

from __future__ import annotations

from mesh.policy.limits import Standing

TARGET_S = 0.1  # so an interval of 2 s


def feed(standing, waits):
    seen = []
    for now_s, waited_s in waits:
        standing.took(waited_s, TARGET_S, now_s)
        seen.append(standing.is_standing)
    return seen


def test_a_burst_that_passes_within_an_interval_is_no_standing_queue():
    assert not any(feed(Standing(), [(t / 10, 0.5) for t in range(19)] + [(1.9, 0.05), (2.1, 0.5)]))


def test_a_queue_that_never_falls_below_the_target_stands():
    seen = feed(Standing(), [(t / 10, 0.5) for t in range(30)])
    assert seen == [False] * 20 + [True] * 10


def test_one_short_wait_ends_it():
    standing = Standing()
    feed(standing, [(t / 10, 0.5) for t in range(30)])
    assert feed(standing, [(3.0, 0.1)]) == [False]
    feed(standing, [(t / 10, 0.5) for t in range(31, 60)])
    assert standing.is_standing
    standing.emptied()
    assert not standing.is_standing

"""The formulas, against the figures that memberlist's code gives."""

from __future__ import annotations

import pytest

from mesh.gossip.lifeguard import (
    Awareness,
    node_scale,
    patience,
    retransmit_limit,
    suspicion_s,
    sync_interval_s,
)


@pytest.mark.parametrize(
    ("members", "min_s", "max_s", "expected", "sends", "sync_s"),
    [  # memberlist's LAN settings: probe 1 s, suspicion 4, retransmit 4, sync 30 s
        (5, 4.0, 24.0, 2, 4, 30.0),
        (10, 4.0, 24.0, 2, 8, 30.0),
        (30, 5.9, 35.5, 2, 8, 30.0),
        (33, 6.1, 36.4, 2, 8, 60.0),
        (100, 8.0, 48.0, 2, 12, 90.0),
        (1000, 12.0, 72.0, 2, 16, 180.0),
        (10_000, 16.0, 96.0, 2, 20, 300.0),
    ],
)
def test_values_by_size(members, min_s, max_s, expected, sends, sync_s):
    found = patience(members, 4, 1.0)
    assert (min_s, max_s) == (round(found.min_s, 1), round(found.max_s, 1))
    assert expected == found.expected
    assert sends == retransmit_limit(members, 4)
    assert sync_s == sync_interval_s(30.0, members)


@pytest.mark.parametrize(
    ("members", "by_accusers"),
    [
        (1, (12.0, 12.0)),
        (2, (12.0, 12.0)),  # nobody to ask: three times the floor
        (3, (12.0, 4.0)),  # memberlist: 4.0 at once, on one voice
        (4, (24.0, 11.4, 4.0)),
        (5, (24.0, 11.4, 4.0, 4.0)),
        (100, (48.0, 22.8, 8.0)),
    ],
)
def test_patience_shortens_with_each_voice(members, by_accusers):
    bounds = patience(members, 4, 1.0)
    found = tuple(round(bounds.timeout_s(voices + 1), 1) for voices in range(len(by_accusers)))
    assert by_accusers == found


def test_a_multiplier_that_asks_nobody():
    assert patience(10, 2, 1.0) == patience(10, 2, 1.0)
    assert (0, 6.0, 6.0) == (
        patience(10, 2, 1.0).expected,
        patience(10, 2, 1.0).min_s,
        patience(10, 2, 1.0).max_s,
    )


@pytest.mark.parametrize(
    ("confirmations", "elapsed_s", "left_s"),
    [(0, 0, 30.0), (1, 2, 14.0), (2, 3, 4.810), (3, 4, -2.0), (4, 5, -3.0), (5, 10, -8.0)],
)
def test_suspicion_agrees_with_memberlists_table(confirmations, elapsed_s, left_s):
    assert left_s == pytest.approx(suspicion_s(confirmations, 3, 2.0, 30.0) - elapsed_s, abs=1e-3)


def test_suspicion_without_anyone_to_ask():
    assert 2.0 == suspicion_s(0, 0, 2.0, 30.0)


@pytest.mark.parametrize(("members", "scale"), [(0, 1.0), (1, 1.0), (10, 1.0), (1000, 3.0)])
def test_scale(members, scale):
    assert scale == pytest.approx(node_scale(members))


def test_awareness_stays_within_its_bounds():
    health = Awareness()
    scores = []
    for delta in (-1, 1, 2, 9, -1, -20):
        health.adjust(delta)
        scores.append((health.score, health.scaled_s(0.5)))
    assert [(0, 0.5), (1, 1.0), (3, 2.0), (7, 4.0), (6, 3.5), (0, 0.5)] == scores

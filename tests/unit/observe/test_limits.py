"""Every count of a refusal gets one name; what was never reached is not told."""

from __future__ import annotations

from mesh.observe.limits import gossip_events, reached

FIGURES = {
    "door": {"refused_requests": 3},
    "routes": {"budget_refused": 2, "shadows": {"skipped": 1}},
    "once": {"evictions": 4},
    "gossip": {"members_refused": 5, "probes": 99, "deaths": 1, "dropped": {"replayed": 6}},
    "endings": {"peer_timeout": 7, "goodbye": 0},
    "roles": {
        "embed": {"dropped": {"expired": 8}, "cache": {"evictions": 9}},
        "generate": {
            "engine": {"preemptions": 10, "ended": {"stop": 99, "too_large": 11}},
            "total_items": 99,
        },
        "far": {"kind": "embed"},
        "gone": {"state": "failed", "load_failures": 12},
    },
}


def test_each_count_gets_its_name_and_its_role():
    assert {
        ("door.requests", ""): 3,
        ("route.budget", ""): 2,
        ("route.shadows", ""): 1,
        ("once.kept", ""): 4,
        ("gossip.members_refused", ""): 5,
        ("gossip.replayed", ""): 6,
        ("peer.peer_timeout", ""): 7,
        ("role.expired", "embed"): 8,
        ("role.cache", "embed"): 9,
        ("role.kv", "generate"): 10,
        ("role.too_large", "generate"): 11,
        ("role.load", "gone"): 12,
    } == reached(FIGURES)


def test_a_node_without_figures_has_reached_nothing():
    assert {} == reached({})
    assert {0} == set(gossip_events({}).values())


def test_verdicts_are_told_apart_from_other_counts():
    assert 1 == gossip_events(FIGURES)["deaths"]
    assert "probes" not in gossip_events(FIGURES)

"""Of two topologies every node takes the same one, and doors wait for what they need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.policy.epoch import Edition, Verdict, digest_of, judge, missing

editions = st.builds(Edition, st.just("m"), st.integers(1, 3), st.integers(0, 3))


@pytest.mark.parametrize(
    ("offered", "is_peer", "expected"),
    [
        (Edition("other", 9, 1), True, Verdict.FOREIGN),
        (Edition("m", 3, 1), False, Verdict.TAKE),
        (Edition("m", 2, 5), False, Verdict.SAME),
        (Edition("m", 2, 6), False, Verdict.RIVAL),
        (Edition("m", 2, 6), True, Verdict.TAKE),
        (Edition("m", 2, 4), True, Verdict.OLDER),
        (Edition("m", 1, 9), True, Verdict.OLDER),
    ],
)
def test_verdicts(offered, is_peer, expected):
    assert expected == judge(Edition("m", 2, 5), offered, is_peer=is_peer)


@given(st.lists(editions, min_size=1))
def test_any_order_of_news_ends_with_the_same_one(offered):
    """Nodes that hear the same editions in whatever order agree."""

    def last(order):
        known = order[0]
        for one in order:
            if judge(known, one, is_peer=True) is Verdict.TAKE:
                known = one
        return known

    assert last(offered) == last(offered[::-1]) == max(offered, key=lambda one: one.precedence)


def test_a_digest_tells_texts_apart():
    assert digest_of("a") != digest_of("b")
    assert 0 <= digest_of("a") < 1 << 32


@pytest.mark.parametrize(
    ("needed", "served", "before", "expected"),
    [
        ({"a", "b"}, {"a", "b"}, set(), ()),
        ({"a", "b"}, {"a"}, set(), ("b",)),
        ({"a", "b"}, {"a"}, {"b"}, ()),
    ],
)
def test_a_door_waits_for_what_nobody_serves_yet(needed, served, before, expected):
    assert expected == missing(needed, served, before)

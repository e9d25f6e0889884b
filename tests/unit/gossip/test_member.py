"""Which news wins, and what does not fit."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import SetupError
from mesh.gossip.beliefs import Beliefs
from mesh.gossip.member import FACTS_BYTES_MAX, Facts, Member, News, Status, check_facts
from mesh.gossip.rules import Rules
from mesh.gossip.state import State


def member(incarnation: int = 1, status: Status = Status.ALIVE, boot: int = 1) -> Member:
    return Member("b", boot, incarnation, status, "b:1", Facts("b"))


LADDER = [
    member(1, Status.ALIVE),
    member(1, Status.SUSPECT),
    member(1, Status.DEAD),
    member(1, Status.LEFT),
    member(2, Status.ALIVE),
    member(2, Status.DEAD),
    member(0, Status.ALIVE, boot=2),
    member(9, Status.SUSPECT, boot=2),
]


def test_precedence_is_a_ladder():
    for loser, winner in itertools.pairwise(LADDER):
        assert loser.precedence < winner.precedence


@given(
    st.lists(
        st.builds(member, st.integers(0, 3), st.sampled_from(Status), st.integers(1, 2)),
        min_size=1,
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_any_order_of_news_ends_in_the_same_view(said, shuffler):
    """Knowledge is a join: order and repetition do not matter."""

    def view(order: list[Member]) -> Member:
        me = Member("a", 1, 1, Status.ALIVE, "a:1", Facts("a"))
        state = State("m", me, Random(1), Rules())
        beliefs = Beliefs(state)
        for step, one in enumerate(order):
            beliefs.merge(News(one), float(step))
        entry = state.roster.get("b")
        assert entry is not None
        return entry.member

    other = said + said[:2]
    shuffler.shuffle(other)
    assert view(said) == view(other) == max(said, key=lambda one: one.precedence)


def test_facts_that_do_not_fit_are_refused():
    check_facts(Facts("n", labels=("x" * 400,)))
    with pytest.raises(SetupError, match=rf"'n'.* at most {FACTS_BYTES_MAX}"):
        check_facts(Facts("n", labels=("x" * 500,)))


def test_presence():
    present = [status for status in Status if member(1, status).is_present]
    assert [Status.ALIVE, Status.SUSPECT] == present
    assert (1, 4) == member(4).version

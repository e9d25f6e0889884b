"""Rumours: least sent first, newest first, never more often than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.gossip.member import Facts, Member, News, Status
from mesh.gossip.rumours import Rumours, news_bytes


def news(name: str, incarnation: int = 1, labels: int = 0) -> News:
    facts = Facts(name, labels=("x" * labels,))
    return News(Member(name, 1, incarnation, Status.ALIVE, f"{name}:1", facts))


def names(taken: list[News]) -> str:
    return "".join(one.member.id for one in taken)


def test_newest_goes_first_then_the_least_sent():
    queue = Rumours()
    for name in "abc":
        queue.put(news(name))
    room = 2 * news_bytes(news("a"))
    assert ["cb", "ab", "ac", "ca"] == [names(queue.take(room, 3)) for _ in range(4)]
    queue.check()


def test_newer_news_takes_the_place_of_older():
    queue = Rumours()
    queue.put(news("a", 1))
    queue.take(1000, 9)
    queue.put(news("a", 2))
    assert 1 == len(queue)
    assert [2] == [one.member.incarnation for one in queue.take(1000, 9)]


def test_what_a_packet_holds_already_waits():
    queue = Rumours()
    queue.put(news("a"))
    assert "" == names(queue.take(1000, 9, without=["a"]))
    assert "a" in queue


def test_what_does_not_fit_lets_smaller_news_pass():
    queue = Rumours()
    queue.put(news("a"))
    queue.put(news("b", labels=300))
    assert "a" == names(queue.take(200, 9))


def test_a_full_packet_ends_the_search():
    queue = Rumours()
    queue.put(news("a"))
    for name in "bcdefghi":
        queue.put(news(name, labels=300))
    assert "" == names(queue.take(200, 9))


def test_discarded_news_is_not_told():
    queue = Rumours()
    queue.put(news("a"))
    queue.discard("a")
    queue.discard("a")
    assert 0 == len(queue)


@given(
    st.lists(st.one_of(st.sampled_from("abcdefgh"), st.integers(0, 400)), max_size=60),
    st.integers(1, 5),
)
def test_no_news_is_sent_more_often_than_the_limit(steps, limit):
    """Each piece of news leaves at most `limit` times, in packets that hold it."""
    queue, sent, version = Rumours(), dict[tuple[str, int], int](), 0
    for step in steps:
        if isinstance(step, str):
            version += 1
            queue.put(news(step, version))
            continue
        taken = queue.take(step, limit)
        assert sum(map(news_bytes, taken)) <= step
        for one in taken:
            key = (one.member.id, one.member.incarnation)
            sent[key] = sent.get(key, 0) + 1
        queue.check()
    assert all(count <= limit for count in sent.values())

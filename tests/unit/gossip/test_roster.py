"""The table: who is present, who is asked next, who is forgotten."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mesh.gossip import roster as rostering
from mesh.gossip.member import Facts, Member, Status
from mesh.gossip.roster import FORGET_S, Roster


def member(name: str, status: Status = Status.ALIVE, called: str = "") -> Member:
    return Member(name, 1, 1, status, f"{name}:1", Facts(called or name))


def roster(names: str = "", seed: int = 1) -> Roster:
    made = Roster(Random(seed))
    for name in names:
        made.put(member(name), 0.0)
    return made


def probed(table: Roster, count: int) -> str:
    found = [table.next_to_probe() for _ in range(count)]
    return "".join(entry.member.id for entry in found if entry)


def test_each_round_asks_everyone_once():
    table = roster("abcdef")
    probed(table, 6)  # the first may be short of those who came during it
    for _ in range(5):
        assert "abcdef" == "".join(sorted(probed(table, 6)))


def test_urgent_ones_come_first_if_they_are_still_there():
    table = roster("abcdef")
    table.put(member("b", Status.DEAD), 1.0)
    for name in ("x", "b", "e", "e"):
        table.hurry(name)
    assert "e" == probed(table, 1)


def test_nobody_to_ask():
    assert roster().next_to_probe() is None
    assert [] == roster().sample(3, lambda _: True)


def test_the_gone_are_counted_and_forgotten():
    table = roster("abc")
    table.put(member("a", Status.DEAD), 10.0)
    table.put(member("b", Status.LEFT), 20.0, gone_for_s=5.0)
    assert ["b"] == [entry.member.id for entry in table.gone_since(12.0)]
    entry = table.get("b")
    assert entry is not None
    assert 7 == entry.news(22.5).gone_s
    table.forget(10.0 + FORGET_S + 1.0)
    assert {"b", "c"} == {one.member.id for one in table}
    assert [] == table.named("a")
    table.check()


def test_who_returns_is_asked_again():
    table = roster("ab")
    table.put(member("a", Status.DEAD), 1.0)
    assert ["b"] == table.present
    table.put(member("a"), 2.0)
    assert {"a", "b"} == set(table.present)
    assert 2 == len(table)


def test_names_follow_their_members():
    table = roster("ab")
    table.put(member("a", called="new"), 1.0)
    assert [] == table.named("a")
    assert ["a"] == [entry.member.id for entry in table.named("new")]
    table.put(member("b", called="new"), 1.0)
    table.put(member("b", called="other"), 1.0)
    assert ["a"] == [entry.member.id for entry in table.named("new")]


def test_samples_are_distinct_and_accepted():
    table = roster("".join(map(chr, range(97, 117))))
    for _ in range(20):
        found = [one.id for one in table.sample(3, lambda one: one.id < "k")]
        assert len(found) == len(set(found)) <= 3
        assert all(name < "k" for name in found)
    assert [] == table.sample(3, lambda one: one.id == "none")


def test_a_full_table_says_so(monkeypatch):
    monkeypatch.setattr(rostering, "MEMBERS_MAX", 2)
    table = roster("a")
    assert not table.is_full
    table.put(member("b"), 0.0)
    assert table.is_full


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(Status)), max_size=50))
def test_lists_agree_whatever_happens(steps):
    """The order of probing holds exactly those who are present, after any history."""
    table = roster()
    for at_s, (name, status) in enumerate(steps):
        table.put(member(name, status), float(at_s))
        table.next_to_probe()
        table.check()

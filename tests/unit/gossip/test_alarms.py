"""Alarms ring once, at the time set last, earliest first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.gossip.alarms import Alarms


def test_earliest_first_and_ties_in_order():
    alarms = Alarms()
    for name, at_s in (("c", 2.0), ("a", 1.0), ("b", 1.0)):
        alarms.set((name,), at_s)
    assert [("a",), ("b",), None] == [alarms.pop_due(1.5) for _ in range(3)]
    assert 2.0 == alarms.next_s()


def test_setting_again_moves_and_clearing_silences():
    alarms = Alarms()
    alarms.set(("a",), 1.0)
    alarms.set(("a",), 5.0)
    assert alarms.pop_due(4.0) is None
    assert 5.0 == alarms.at_s(("a",))
    alarms.clear(("a",))
    assert alarms.next_s() is None
    assert alarms.at_s(("a",)) is None
    assert alarms.pop_due(9.0) is None


def test_shift_moves_only_the_kinds_named():
    alarms = Alarms()
    alarms.set(("probe",), 1.0)
    alarms.set(("suspicion", "x"), 2.0)
    alarms.set(("gossip",), 3.0)
    alarms.shift(("probe", "suspicion"), 10.0)
    found = [alarms.at_s(name) for name in (("probe",), ("suspicion", "x"), ("gossip",))]
    assert [11.0, 12.0, 3.0] == found


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.floats(0, 9)), max_size=40))
def test_alarms_agree_with_a_plain_table(steps):
    """A dict of times, searched each time, is the model."""
    alarms, model = Alarms(), dict[str, float]()
    for name, at_s in steps:
        if at_s is None:
            alarms.clear((name,))
            model.pop(name, None)
        else:
            alarms.set((name,), at_s)
            model[name] = at_s
        assert min(model.values(), default=None) == alarms.next_s()
    rung = []
    while (found := alarms.pop_due(9.0)) is not None:
        rung.append((model[found[0]], found[0]))
    assert sorted(at_s for at_s, _ in rung) == [at_s for at_s, _ in rung]
    assert set(model) == {name for _, name in rung}

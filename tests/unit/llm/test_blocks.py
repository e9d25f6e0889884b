"""The ledger never hands out more than there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.llm.blocks import BLOCK, Ledger, blocks


def test_blocks_round_up():
    assert [blocks(count) for count in (1, BLOCK, BLOCK + 1)] == [1, 1, 2]


def test_the_lowest_slot_goes_first():
    ledger = Ledger(slots=3, cap=256, budget=12)
    assert [ledger.take(10), ledger.take(10)] == [0, 1]
    ledger.release(0)
    assert ledger.take(10) == 0


def test_memory_goes_back_only_where_slots_outgrow_the_budget():
    ledger = Ledger(slots=2, cap=256, budget=4)
    assert ledger.take(256) == 0
    assert not ledger.release(0)
    first, second = ledger.take(64), ledger.take(192)
    assert (first, second) == (0, 1)
    assert ledger.release(1), "4 blocks touched in slot 0, 3 in slot 1, and 4 are allowed"
    assert not ledger.release(0)


@given(st.lists(st.tuples(st.sampled_from("tgr"), st.integers(1, 300)), max_size=60))
def test_what_is_held_stays_within_the_budget(moves):
    """Any order of taking, growing and releasing; touched memory too, after each release."""
    ledger = Ledger(slots=3, cap=256, budget=7)
    for move, size in moves:
        slots = sorted(ledger.held)
        if move == "t" and size <= ledger.cap:
            slot = ledger.take(size)
            assert (slot is None) == (len(slots) == 3 or blocks(size) > 7 - _held(ledger, slot))
        elif move == "g" and slots and size <= ledger.cap:
            ledger.grow(slots[size % len(slots)], size)
        elif move == "r" and slots:
            ledger.release(slots[size % len(slots)])
            assert sum(ledger.touched.values()) <= ledger.budget
        ledger.check()


def _held(ledger, but):
    return sum(count for slot, count in ledger.held.items() if slot != but)

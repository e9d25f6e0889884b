"""Whatever a peer sends as a step is either one within the limits, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.llm.frames import Entry, Frame, Kind, Limits, read, write

LIMITS = Limits(slots=4, cap=128, width=8, tokens_max=32)


def rows(count, dtype=np.float32, width=8):
    return np.zeros((count, width), dtype)


@st.composite
def valid(draw):
    numbers = {
        "epoch": draw(st.integers(0, 2**32 - 1)),
        "step": draw(st.integers(1000, 2**64 - 1)),
        "lane": draw(st.integers(0, 2)),
        "abreast": draw(st.integers(1, 255)),
        "after": tuple(draw(st.dictionaries(st.integers(3, 15), st.integers(0, 999))).items()),
        "spent_us": tuple(draw(st.lists(st.integers(0, 2**32 - 1), max_size=4))),
        "has_waited": draw(st.booleans()),
        "share": draw(st.integers(1, 255)),
    }
    wanted = st.booleans()
    if draw(st.booleans()):
        start, count = draw(st.integers(0, 96)), draw(st.integers(1, 32))
        entries = (Entry(draw(st.integers(0, 3)), start, count, draw(wanted)),)
        return Frame(kind=Kind.CHUNK, entries=entries, **numbers)
    if draw(st.booleans()):
        first, second = draw(st.permutations(range(4)))[:2]
        start, count = draw(st.integers(0, 96)), draw(st.integers(1, 32))
        places = Entry(first, start, count), Entry(second, start, count)
        return Frame(kind=Kind.COPY, entries=places, **numbers)
    places = draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 127)), min_size=1))
    entries = tuple(Entry(slot, at, 1, draw(wanted)) for slot, at in sorted(places)[:32])
    return Frame(kind=Kind.ROWS, entries=entries, **numbers)


@given(valid())
def test_a_frame_comes_back_as_it_was(frame):
    """What is written is read, on the way out and on the way back."""
    """Reading undoes writing, there and back."""
    assert frame == read(write(frame), rows(frame.tokens()), LIMITS)
    assert frame == read(write(frame), rows(len(frame.wanted())), LIMITS, is_back=True)


@given(valid(), st.data())
def test_a_damaged_frame_is_read_or_refused_and_nothing_else(frame, data):
    """Invariant: whatever bytes come, only `RemoteProtocolError`, and limits hold."""
    raw = bytearray(write(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for each in (bytes(raw), bytes(raw[:cut])):
        try:
            found = read(each, rows(frame.tokens()), LIMITS)
        except RemoteProtocolError:
            continue
        assert found.tokens() <= LIMITS.tokens_max
        assert all(entry.slot < LIMITS.slots for entry in found.entries)
        assert all(entry.start + entry.count <= LIMITS.cap for entry in found.entries)


@pytest.mark.parametrize(
    "entries",
    [
        (Entry(0, 0, 8),),
        (Entry(0, 0, 8), Entry(0, 0, 8)),
        (Entry(0, 0, 8), Entry(1, 0, 9)),
        (Entry(0, 0, 8), Entry(1, 1, 8)),
        (Entry(0, 0, 8), Entry(1, 0, 8), Entry(2, 0, 8)),
    ],
)
def test_a_copy_is_of_the_same_positions_of_two_slots(entries):
    with pytest.raises(RemoteProtocolError, match="a copy"):
        read(write(Frame(1, 1, Kind.COPY, entries)), None, LIMITS)


@pytest.mark.parametrize("after", [((0, 1),), ((1, 7),), ((1, 9),), ((16, 1),)])
def test_a_step_waits_for_older_ones_of_other_lanes_only(after):
    """So whatever is under way, something can be computed."""
    frame = Frame(1, 7, Kind.BACK, (Entry(0, 5),), after=after)
    with pytest.raises(RemoteProtocolError, match="a step: "):
        read(write(frame), None, LIMITS)


@given(st.binary(max_size=80))
def test_noise_is_refused(noise):
    """Bytes of no version that we know are never a step."""
    """Bytes of another protocol are never taken for a frame."""
    with pytest.raises(RemoteProtocolError):
        read(b"\xff" + noise, rows(1), LIMITS)


@pytest.mark.parametrize(
    "hidden",
    [None, "text", rows(2), rows(1, width=9), rows(1, np.float64), rows(1, np.uint16), rows(0)],
)
def test_hidden_states_must_fit(hidden):
    frame = Frame(1, 1, Kind.ROWS, (Entry(0, 5),))
    with pytest.raises(RemoteProtocolError):
        read(write(frame), hidden, LIMITS)


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        (Kind.ROWS, ()),
        (Kind.ROWS, (Entry(4, 0),)),
        (Kind.ROWS, (Entry(0, 128),)),
        (Kind.ROWS, (Entry(0, 0, 2),)),
        (Kind.ROWS, (Entry(1, 0), Entry(0, 0))),
        (Kind.ROWS, (Entry(0, 3), Entry(0, 3))),
        (Kind.CHUNK, (Entry(0, 0, 0),)),
        (Kind.CHUNK, (Entry(0, 0, 33),)),
        (Kind.CHUNK, (Entry(0, 100, 29),)),
        (Kind.CHUNK, (Entry(0, 0, 1), Entry(1, 0, 1))),
        (Kind.BACK, (Entry(9, 0),)),
    ],
)
def test_what_cannot_be_meant_is_refused(kind, entries):
    frame = Frame(1, 1, kind, entries)
    with pytest.raises(RemoteProtocolError):
        read(write(frame), rows(max(1, frame.tokens())), LIMITS)


@pytest.mark.parametrize("wrong", [("slots", 0), ("cap", "x"), ("width", 1 << 17), ("hidden", 3)])
def test_limits_of_an_order_are_checked(wrong):
    values = {"slots": 4, "cap": 64, "width": 8, "tokens_max": 8, "hidden": "float32"}
    assert not Limits(**values).problems()
    assert len(Limits(**values | dict([wrong])).problems()) == 1

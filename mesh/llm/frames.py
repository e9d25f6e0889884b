"""Writes the steps of a split model as bytes and reads them back, checking every number.

Pure. A frame is a head, a table with one entry per sequence, and, beside it, the hidden
states: `[tokens, C]` float32, or bf16 as 16-bit numbers. Nothing of a frame is trusted
before `read` has compared it with the limits of the instance.

    version u8 | kind u8 | lane u8 | waited u8 | share u8 | abreast u8 | epoch u32 | step u64
    stages u8 | afters u8
    then per stage that it has passed: computing µs u32
    then per lane that it must not overtake: lane u8 | step u64
    then per entry: slot u16 | count u16 | start u32 | wanted u8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from struct import Struct
from typing import Any

from mesh.errors import RemoteProtocolError

VERSION = 4
STAGES_MAX = 64  # behind the head; a step that has passed more goes in circles
LANES_MAX = 16  # ways round at once: each has a connection and a thread at every node
_HEAD = Struct("<BBBBBBIQBB")
_SPENT = Struct("<I")
_AFTER = Struct("<BQ")
_ENTRY = Struct("<HHIB")
_U32 = 0xFFFF_FFFF
HEADER, HIDDEN = "step", "hidden"  # the fields of a piece
DTYPES = {"float32": "<f4", "bfloat16": "<u2"}


class Kind(IntEnum):
    """What is done with the entries."""

    ROWS = 0  # one position each, of many sequences
    CHUNK = 1  # several positions of one sequence
    BACK = 2  # slots whose memory goes back to the system
    COPY = 3  # positions of the first entry's slot go to the same ones of the second's


ORDERS = frozenset({Kind.BACK, Kind.COPY})  # no hidden states go with them
COPIED_MAX = 0xFFFF  # positions by one frame


@dataclass(frozen=True, slots=True)
class Entry:
    """Positions `start…` of one slot; `is_wanted`: the last of them comes back to the head."""

    slot: int
    start: int
    count: int = 1
    is_wanted: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """One step on its way round.

    Attributes:
        epoch: of the chain; frames of another one are dropped.
        step: grows by one with each frame of an epoch.
        lane: which of the ways round it goes.
        spent_us: what each stage so far has computed.
        has_waited: it came to a stage that was at work.
        share: each node computes with its threads divided by this.
        abreast: how many frames a node may compute at once while it computes this one.
        after: newest steps of other lanes that must be computed before it, by lane.
    """

    epoch: int
    step: int
    kind: Kind
    entries: tuple[Entry, ...]
    lane: int = 0
    spent_us: tuple[int, ...] = ()
    has_waited: bool = False
    share: int = 1
    abreast: int = 1
    after: tuple[tuple[int, int], ...] = ()

    def tokens(self) -> int:
        """Return how many rows of hidden states go with it."""
        return 0 if self.kind in ORDERS else sum(entry.count for entry in self.entries)

    def wanted(self) -> list[int]:
        """Return which of these rows come back to the head."""
        found, at = [], -1
        for entry in self.entries:
            at += entry.count
            if entry.is_wanted:
                found.append(at)
        return found


@dataclass(frozen=True, slots=True)
class Limits:
    """What the frames of one instance stay within.

    Attributes:
        slots: sequences.
        cap: positions of each.
        width: of a hidden state.
        tokens_max: rows of one frame.
        hidden: "float32" or "bfloat16".
    """

    slots: int
    cap: int
    width: int
    tokens_max: int
    hidden: str = "float32"

    def problems(self) -> list[str]:
        """Return what is wrong with them: they come from another node."""
        names = ("slots", "cap", "width", "tokens_max")
        found = [
            f"{name}: expected 1 to {most}, found {value!r}"
            for name, most in zip(names, (4096, 1 << 20, 1 << 16, 1 << 16), strict=True)
            if type(value := getattr(self, name)) is not int or not 0 < value <= most
        ]
        if self.hidden not in DTYPES:
            found.append(f"hidden: expected float32 or bfloat16, found {self.hidden!r}")
        return found


def header_bytes_max(limits: Limits) -> int:
    """Return how long `write` can be: with one entry per row, or per slot that goes back."""
    entries = max(limits.tokens_max, limits.slots)
    lists = _SPENT.size * STAGES_MAX + _AFTER.size * LANES_MAX
    return _HEAD.size + lists + _ENTRY.size * entries


def write(frame: Frame) -> bytes:
    """Return the frame without its hidden states."""
    head = _HEAD.pack(
        VERSION,
        frame.kind,
        frame.lane,
        frame.has_waited,
        frame.share,
        frame.abreast,
        frame.epoch,
        frame.step,
        len(frame.spent_us),
        len(frame.after),
    )
    spent = (_SPENT.pack(min(each, _U32)) for each in frame.spent_us)
    after = (_AFTER.pack(*each) for each in frame.after)
    entries = (_ENTRY.pack(e.slot, e.count, e.start, e.is_wanted) for e in frame.entries)
    return b"".join((head, *spent, *after, *entries))


def read(data: object, hidden: Any, limits: Limits, *, is_back: bool = False) -> Frame:
    """Return the frame.

    Args:
        data: from `write`, or anything.
        hidden: the array that came with it, or anything.
        limits: of the instance.
        is_back: whether it has been round, and brings only the rows that were wanted.

    Raises:
        RemoteProtocolError: it is not one, or outside the limits.
    """
    frame = _parse(data)
    _check_entries(frame, limits)
    rows = len(frame.wanted()) if is_back and frame.kind not in ORDERS else frame.tokens()
    if rows == 0:
        return frame
    shape, dtype = getattr(hidden, "shape", None), getattr(hidden, "dtype", None)
    expected = (rows, limits.width)
    if shape != expected or getattr(dtype, "str", "") != DTYPES[limits.hidden]:
        raise RemoteProtocolError(
            f"hidden states: expected {expected} {limits.hidden}, found {shape} {dtype}"
        )
    return frame


def _parse(data: object) -> Frame:
    if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) < _HEAD.size:
        raise RemoteProtocolError(f"a step: expected at least {_HEAD.size} bytes")
    head = _HEAD.unpack_from(data)
    version, kind, lane, has_waited, share, abreast, epoch, step, stages, afters = head
    if version != VERSION:
        raise RemoteProtocolError(f"a step: expected version {VERSION}, found {version}")
    if kind > Kind.COPY or stages > STAGES_MAX or not share or not abreast:
        raise RemoteProtocolError(f"a step: no kind {kind}, or {stages} stages, share {share}")
    between = _HEAD.size + _SPENT.size * stages
    start = between + _AFTER.size * afters
    if len(data) < start or (len(data) - start) % _ENTRY.size:
        raise RemoteProtocolError(f"a step: {len(data)} bytes end within an entry")
    raw = bytes(data)
    spent_us = tuple(us for (us,) in _SPENT.iter_unpack(raw[_HEAD.size : between]))
    after = tuple(_AFTER.iter_unpack(raw[between:start]))
    entries = tuple(
        Entry(slot, start, count, bool(wanted))
        for slot, count, start, wanted in _ENTRY.iter_unpack(raw[start:])
    )
    if max(lane, afters, *(each for each, _ in after)) >= LANES_MAX:
        raise RemoteProtocolError(f"a step: expected less than {LANES_MAX} lanes")
    if any(each == lane or newest >= step for each, newest in after):
        raise RemoteProtocolError("a step: it is to wait for itself, or for a later one")
    return Frame(
        epoch=epoch,
        step=step,
        kind=Kind(kind),
        entries=entries,
        lane=lane,
        spent_us=spent_us,
        has_waited=bool(has_waited),
        share=share,
        abreast=abreast,
        after=after,
    )


def _check_entries(frame: Frame, limits: Limits) -> None:
    entries = frame.entries
    if not entries or frame.tokens() > limits.tokens_max:
        raise RemoteProtocolError(
            f"a step of {len(entries)} entries and {frame.tokens()} rows;"
            f" expected 1 to {limits.tokens_max}"
        )
    for entry in entries:
        is_inside = entry.slot < limits.slots and entry.start + entry.count <= limits.cap
        if not is_inside or not entry.count:
            raise RemoteProtocolError(
                f"slot {entry.slot}, positions {entry.start}+{entry.count}: expected within"
                f" {limits.slots} slots of {limits.cap}"
            )
    if frame.kind is Kind.CHUNK and len(entries) != 1:
        raise RemoteProtocolError(f"a chunk of {len(entries)} sequences; expected one")
    if frame.kind is Kind.ROWS:
        _check_rows(entries)
    if frame.kind is Kind.COPY:
        _check_copy(entries)


def _check_copy(entries: Sequence[Entry]) -> None:
    places = {(entry.start, entry.count) for entry in entries}
    if len(entries) != 2 or len(places) != 1 or entries[0].slot == entries[1].slot:
        raise RemoteProtocolError("a copy: expected the same positions of two slots")


def _check_rows(entries: Sequence[Entry]) -> None:
    places = [(entry.slot, entry.start) for entry in entries]
    if any(entry.count != 1 for entry in entries) or any(
        first >= second for first, second in pairwise(places)
    ):
        raise RemoteProtocolError("rows: expected one position each, ascending by slot")

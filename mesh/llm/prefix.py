"""Finds what was computed before of a new sequence's tokens: the prefix that it need not read.

Pure. Used by `llm.scheduler`, which makes the steps; `llm.blocks` counts the memory. Two ways:

    adopt   a finished sequence left its slot warm, and the new one goes on from there: its
            slot becomes the new one's, up to where their tokens part. Nothing is computed
            or copied.
    copy    the prefix lies in the slot of a sequence that still runs, or in a warm one that
            is worth more than the part wanted: positions are copied from slot to slot before
            the first chunk. Several answers to one prompt read it once this way.

A copied key is the key that was computed, bit for bit. What is computed *after* it may be
rounded otherwise than without, as a matrix product of 40 rows is not rounded like one of
256. Hence `Reuse`, and rule 2:

1. At least one position is left to compute: somebody has to say the first token.
2. Where the source has read the very same prompt, the last `REST` positions are read again:
   products of so many rows are rounded as those of a whole chunk are (measured on AVX512,
   float32 and bf16), so asking twice says the same twice, also in bf16.
3. Fewer than `GAIN` positions are not worth the trouble.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from mesh.llm.blocks import BLOCK, Ledger
from mesh.llm.sequence import Sequence

REST = 64  # narrow products take up to some 40 rows, and round differently
GAIN = 16  # positions; below, choosing slots by their neighbours is worth more


class Reuse(Enum):
    """How much of what was computed is used again."""

    ALL = "all"  # every position: equal in exact arithmetic, within rounding otherwise
    EXACT = "exact"  # whole chunks of prompts: equal bit for bit, in every form of the weights
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Copy:
    """Positions `start…stop` of another slot are to be copied."""

    source: int
    start: int
    stop: int


@dataclass(slots=True)
class _Counts:
    hits: int = 0
    tokens: int = 0
    copies: int = 0


class Prefixes:
    """Seats sequences where most of them is computed already."""

    def __init__(self, ledger: Ledger, reuse: Reuse, chunk: int) -> None:
        """Start cold.

        Args:
            ledger: of the memory.
            reuse: how much.
            chunk: prompts are cut at multiples of this.
        """
        self._ledger, self._reuse, self._chunk = ledger, reuse, chunk
        self._counts = _Counts()

    def seat(self, sequence: Sequence, running: Iterable[Sequence]) -> bool:
        """Give a sequence a slot with room for its next token; return whether there was one.

        It takes over the warm slot with the longest prefix, unless it wants but a part of it
        and can have a copy, or somebody who runs has more.
        """
        ledger, positions = self._ledger, sequence.length + 1
        warm, count = self._warmest(sequence)
        is_copied = warm >= 0 and self._is_to_stay(warm, sequence)
        if warm >= 0 and not is_copied and self._promised(sequence, running) <= count:
            if not ledger.adopt(warm, positions):
                return False
            sequence.slot, sequence.computed = warm, count
            self._note(sequence, count)
            return True
        slot = ledger.take(positions, spare=warm if is_copied else -1)
        if slot is None:
            return False
        sequence.slot, sequence.computed = slot, 0
        return True

    def copy(self, sequence: Sequence, running: Iterable[Sequence]) -> Copy | None:
        """Return what to copy before a sequence's prompt is read on, if anything.

        What a step under way reads counts: it is computed before a later step copies it.
        """
        if self._reuse is Reuse.NONE:
            return None
        known = self._ledger.warm.copy()
        for other in running:
            if other is not sequence and other.slot >= 0:
                known[other.slot] = self._kept(other, max(other.computed, other.read))
        found = {slot: self._usable(sequence, tokens) for slot, tokens in known.items()}
        source = max(found, key=lambda slot: found[slot], default=-1)
        stop, prompt = found.get(source, 0), len(sequence.prompt)
        if stop >= prompt:
            stop = prompt - REST  # a prompt is read to its end, and what was said after it again
        if stop - sequence.computed < GAIN:
            return None
        if source in self._ledger.warm:
            self._ledger.refresh(source)
        copied = Copy(source, sequence.computed, stop)
        self._note(sequence, stop - sequence.computed, is_copy=True)
        return copied

    def leave(self, sequence: Sequence, *, keep: bool) -> list[int]:
        """Free a sequence's slot, warm if that is of use; return slots to give back."""
        tokens = self._kept(sequence, sequence.computed) if keep else ()
        return self._ledger.release(sequence.slot, tokens)

    def statistics(self) -> dict[str, int]:
        """Return how often a prefix was found, and what it saved."""
        return {
            "kv_blocks_warm": self._ledger.warm_blocks,
            "prefix_hits": self._counts.hits,
            "prefix_tokens": self._counts.tokens,
            "prefix_copies": self._counts.copies,
            "prefix_evictions": self._ledger.evictions,
        }

    def _note(self, sequence: Sequence, count: int, *, is_copy: bool = False) -> None:
        if not sequence.preempted:  # what it finds again was its own
            sequence.known = min(sequence.known + count, len(sequence.prompt))
        self._counts.hits += 1
        self._counts.tokens += count
        self._counts.copies += is_copy

    def _warmest(self, sequence: Sequence) -> tuple[int, int]:
        """Return the warm slot that has most of a sequence, and how much; -1 if none has."""
        if self._reuse is Reuse.NONE:
            return -1, 0
        warm = self._ledger.warm
        found = {slot: self._usable(sequence, tokens) for slot, tokens in warm.items()}
        best = max(found, key=lambda slot: found[slot], default=-1)
        return (best, found[best]) if best >= 0 and found[best] >= GAIN else (-1, 0)

    def _promised(self, sequence: Sequence, running: Iterable[Sequence]) -> int:
        """Return how much of it somebody who runs will have when its turn to read comes."""
        known = (self._kept(each, each.length) for each in running)
        return max((self._usable(sequence, tokens) for tokens in known), default=0)

    def _is_to_stay(self, slot: int, sequence: Sequence) -> bool:
        """Return whether a warm slot of which a sequence wants a part stays, beside a copy."""
        ledger, tokens = self._ledger, self._ledger.warm[slot]
        is_more = len(tokens) - shared(sequence.tokens(), tokens) >= BLOCK
        room = sequence.length + 1 + len(tokens) + BLOCK  # both are rounded up
        return is_more and ledger.has_slot(beside=slot) and ledger.has_room(room)

    def _kept(self, sequence: Sequence, count: int) -> tuple[int, ...]:
        """Return what others may use of a sequence's first positions."""
        if self._reuse is Reuse.NONE:
            return ()
        if self._reuse is Reuse.EXACT:
            count = self._whole(min(count, len(sequence.prompt)))
        return sequence.tokens()[:count]

    def _usable(self, sequence: Sequence, known: tuple[int, ...]) -> int:
        """Return how many positions of a sequence may come from where these tokens lie."""
        count, prompt = shared(sequence.tokens(), known), len(sequence.prompt)
        if self._reuse is Reuse.EXACT:
            return self._whole(min(count, prompt - 1))
        if sequence.answer and count > prompt:
            return min(count, sequence.length - 1)  # it begins again, and meets its own words
        return prompt - REST if count >= prompt else count

    def _whole(self, positions: int) -> int:
        return max(0, positions) // self._chunk * self._chunk


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many tokens two sequences have in common from their start."""
    most = min(len(one), len(other))
    for start in range(0, most, BLOCK):
        stop = min(start + BLOCK, most)
        if one[start:stop] != other[start:stop]:
            return next(at for at in range(start, stop) if one[at] != other[at])
    return most

"""Who is in the next step of a language model.

Pure. `llm.engine` submits and cancels, asks for a step, computes it, and settles it.

    Submit --> [waiting, by priority, then arrival] --> slot --> prefill --> decode --> Ended
                     ^                                              |
                     +------------- preempted, keeps its place -----+

Rules, in order of authority:
1. A step holds every sequence that is due for a token, and at most one chunk of a prompt:
   who speaks already waits at most one chunk longer.
2. A prompt is cut at multiples of `chunk`, whoever else is there. So what it computes
   does not depend on company.
3. Who came first is admitted first; nobody overtakes because it is small.
4. Nobody is admitted without room for its prompt. When room runs out, the newest of the
   lowest priority gives way: it keeps its tokens and its place in the queue, and what it had
   said is computed again row by row, by the same products as the first time (of quantised
   matrices: by those for as many sequences as there are then).
   What is only kept warm (`llm.prefix`) goes before anybody gives way.
5. Whoever is cancelled or late leaves with the step in which that is known.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mesh.llm.blocks import BLOCK, Ledger
from mesh.llm.lookup import Drafts
from mesh.llm.prefix import Prefixes, Reuse
from mesh.llm.sequence import Phase, Reason, Sequence
from mesh.llm.step import Chunk, Row, Step
from mesh.machine import Tick


@dataclass(frozen=True, slots=True)
class Submit:
    """A new answer is wanted."""

    sequence: Sequence


@dataclass(frozen=True, slots=True)
class Cancel:
    """An answer is not wanted any more, or complete for a reason seen outside."""

    id: int
    reason: Reason = Reason.CANCELLED


@dataclass(frozen=True, slots=True)
class Emit:
    """An answer has one token more."""

    id: int
    token: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An answer is over; its slot is free."""

    id: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class GiveBack:
    """The memory of a slot must go back to the system."""

    slot: int


Event = Submit | Cancel
Action = Emit | Ended | GiveBack


class Scheduler:
    """The waiting, the running, and the memory they hold."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        chunk: int = 256,
        queue_max: int = 1024,
        rows_max: int = 64,
        reuse: Reuse = Reuse.NONE,
        drafts_max: int = 0,
    ) -> None:
        """Start empty.

        Args:
            ledger: of the memory.
            chunk: prompt tokens per step; more is faster for the prompt, and makes those who
                speak wait longer.
            queue_max: how many may wait.
            rows_max: positions of one sequence said again per step.
            reuse: how much of what other sequences computed is used again.
            drafts_max: guessed tokens of one sequence in a step (`llm.lookup`).
        """
        assert chunk > 0
        self._ledger = ledger
        self._prefixes = Prefixes(ledger, reuse, chunk)
        self._drafts = Drafts(drafts_max)
        self._chunk, self._queue_max, self._rows_max = chunk, queue_max, rows_max
        self._all: dict[int, Sequence] = {}
        self._waiting: list[tuple[int, int, int]] = []  # (priority, order, id), sorted
        self._running: dict[int, Sequence] = {}  # by id, in order of admission
        self._order = 0
        self._preemptions = 0
        self._returns: list[GiveBack] = []

    # --- events ------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Action]:
        """Take one event and return what must be told."""
        match event:
            case Submit(sequence):
                return self._submit(sequence)
            case Cancel(id_, reason):
                return self._end(id_, reason)
            case _:
                late = [each.id for each in self._all.values() if each.deadline_s <= now_s]
                return [action for id_ in late for action in self._end(id_, Reason.DEADLINE)]

    def wakeup_s(self) -> float | None:
        """Return the earliest deadline of anybody who is not in a step."""
        idle = (each.deadline_s for each in self._all.values() if each.doom is None)
        earliest = min(idle, default=float("inf"))
        return None if earliest == float("inf") else earliest

    def _submit(self, sequence: Sequence) -> list[Action]:
        assert sequence.id not in self._all
        assert sequence.phase is Phase.WAITING
        assert sequence.prompt
        assert sequence.tokens_max > 0
        if not self._ledger.can_ever(len(sequence.prompt) + sequence.tokens_max):
            return [Ended(sequence.id, Reason.TOO_LARGE)]
        if len(self._waiting) >= self._queue_max:
            return [Ended(sequence.id, Reason.OVERLOADED)]
        if sequence.answer and (reason := sequence.ending()):
            return [Ended(sequence.id, reason)]  # begun elsewhere, and complete
        self._order += 1
        sequence.order = self._order
        self._all[sequence.id] = sequence
        self._enqueue(sequence)
        return []

    def _enqueue(self, sequence: Sequence) -> None:
        insort(self._waiting, (sequence.priority, sequence.order, sequence.id))

    def _end(self, id_: int, reason: Reason) -> list[Action]:
        sequence = self._all.get(id_)
        if sequence is None:
            return []  # it ended by itself meanwhile
        if sequence.is_busy:
            sequence.doom = sequence.doom or reason
            return []
        if sequence.phase is Phase.WAITING:
            self._waiting.remove((sequence.priority, sequence.order, id_))
        else:
            self._release(sequence, keep=reason is not Reason.FAILED)
        sequence.phase = Phase.DONE
        del self._all[id_]
        self._drafts.forget(id_)
        return [*self._returned(), Ended(id_, reason)]

    def _release(self, sequence: Sequence, *, keep: bool = True) -> None:
        del self._running[sequence.id]
        back = self._prefixes.leave(sequence, keep=keep)
        self._returns += [GiveBack(slot) for slot in back]
        sequence.slot, sequence.read = -1, 0

    def _returned(self) -> list[GiveBack]:
        returned, self._returns = self._returns, []
        return returned

    # --- steps -------------------------------------------------------------------------

    def next_step(self, *, speakers_max: int | None = None, has_chunk: bool = True) -> Step | None:
        """Return the next step, or None when nobody is due; it must be settled.

        Args:
            speakers_max: no more than that many speak in it; None for all, 0 for a chunk only.
            has_chunk: whether it may read a piece of a prompt.
        """
        self._admit()
        self._make_room()
        due = [each for each in self._running.values() if not each.is_busy]
        reading = (self._next_chunk(each) for each in due if has_chunk and self._reads(each))
        chunk = next(reading, None)
        speaking = sorted((each for each in due if not self._reads(each)), key=lambda s: s.slot)
        rows = [row for each in speaking[:speakers_max] for row in self._next_rows(each)]
        if self._drafts.most:
            rows = list(self._drafts.extend(rows, self._all.__getitem__, self._room))
        if chunk is None and not rows:
            return None
        step = Step(chunk, tuple(rows))
        for id_ in step.ids():
            self._all[id_].is_busy = True
        return step

    def settle(
        self, step: Step, tokens: Mapping[int, int], ids: Collection[int] | None = None
    ) -> list[Action]:
        """Take what a step gave: a token for each sequence that asked for one.

        Args:
            step: from `next_step`.
            tokens: by sequence.
            ids: whom of the step to settle; everybody by default. Who asked for no token may
                be settled as soon as the step is on its way, if steps are made in order.
        """
        actions: list[Action] = []
        members = step.ids() if ids is None else ids
        for id_ in sorted(members, key=lambda id_: self._all[id_].order):
            sequence = self._all[id_]
            sequence.is_busy = False
            self._advance(sequence, step)
            if sequence.doom is not None:
                actions += self._end(id_, sequence.doom)
            elif id_ in tokens:
                actions += self._append(sequence, tokens[id_])
        return actions + self._returned()

    def _advance(self, sequence: Sequence, step: Step) -> None:
        if step.chunk and step.chunk.id == sequence.id:
            sequence.computed += len(step.chunk.tokens)
        else:
            own = (row for row in step.rows if row.id == sequence.id)
            sequence.computed += sum(not row.is_draft for row in own)
        if sequence.computed >= len(sequence.prompt):
            sequence.phase = Phase.DECODE

    def follow(self, id_: int, token: int) -> list[Action]:
        """Take what a draft was told that proved right, once its step is settled.

        The draft is the sequence's last token now, and its keys and values lie in the slot.
        """
        sequence = self._all[id_]
        sequence.computed += 1
        return self._append(sequence, token) + self._returned()

    def _append(self, sequence: Sequence, token: int) -> list[Action]:
        sequence.answer.append(token)
        actions: list[Action] = [Emit(sequence.id, token)]
        reason = sequence.ending()
        return actions if reason is None else actions + self._end(sequence.id, reason)

    @staticmethod
    def _reads(sequence: Sequence) -> bool:
        return sequence.computed < len(sequence.prompt)

    def _next_chunk(self, sequence: Sequence) -> Chunk:
        copy = None if sequence.read else self._prefixes.copy(sequence, self._running.values())
        if copy is not None:
            sequence.computed = copy.stop
        start = sequence.computed
        stop = min(start - start % self._chunk + self._chunk, len(sequence.prompt))
        sequence.read = stop
        return Chunk(
            id=sequence.id,
            slot=sequence.slot,
            start=start,
            tokens=sequence.prompt[start:stop],
            is_last=stop == len(sequence.prompt) and not sequence.answer,
            copy=copy,
        )

    def _next_rows(self, sequence: Sequence) -> list[Row]:
        last = sequence.length - 1
        stop = min(sequence.computed + self._rows_max, sequence.length)
        return [
            Row(sequence.id, sequence.slot, at, sequence.token_at(at), is_last=at == last)
            for at in range(sequence.computed, stop)
        ]

    def _room(self, sequence: Sequence) -> int:
        """Return how many positions it may use beyond its own: nobody gives way for a guess."""
        held = min(self._ledger.held[sequence.slot] * BLOCK, self._ledger.cap)
        return held - sequence.length

    # --- memory ------------------------------------------------------------------------

    def _admit(self) -> None:
        while self._waiting:
            sequence = self._all[self._waiting[0][2]]
            # A block to spare for each who runs, lest the newcomer be the first to give way.
            spare = len(self._running) * BLOCK
            if not self._ledger.has_room(sequence.length + 1 + spare):
                return
            if not self._ledger.has_slot():
                return
            if not self._prefixes.seat(sequence, self._running.values()):
                return
            self._waiting.pop(0)
            # What it writes must not go back by an order from before.
            self._returns = [each for each in self._returns if each.slot != sequence.slot]
            sequence.phase = Phase.PREFILL if self._reads(sequence) else Phase.DECODE
            self._running[sequence.id] = sequence

    def _make_room(self) -> None:
        """Let each running sequence hold its next position; the newest give way if need be."""
        for sequence in sorted(self._running.values(), key=_seniority):
            if sequence.phase is Phase.WAITING or sequence.is_busy:
                continue
            while not self._ledger.grow(sequence.slot, sequence.length):
                newest = max(
                    (each for each in self._running.values() if not each.is_busy), key=_seniority
                )
                self._preempt(newest)
                if newest is sequence:
                    break

    def _preempt(self, sequence: Sequence, *, keep: bool = True) -> None:
        self._release(sequence, keep=keep)
        sequence.phase, sequence.computed = Phase.WAITING, 0
        sequence.preempted += 1
        self._preemptions += 1
        self._enqueue(sequence)

    def reset(self) -> list[Action]:
        """Let everybody who runs begin again with prompt and answer: their memory is lost.

        Steps under way are forgotten; they must not be settled.
        """
        actions: list[Action] = []
        for sequence in list(self._running.values()):
            sequence.is_busy = False
            if sequence.doom is not None:
                actions += self._end(sequence.id, sequence.doom)
            else:
                self._preempt(sequence, keep=False)
        self._ledger.forget()
        return actions + self._returned()

    def speakers(self) -> int:
        """Return how many sequences run and have read their prompts."""
        return sum(not self._reads(each) for each in self._running.values())

    def is_reading(self) -> bool:
        """Return whether anybody waits, or has a prompt to read."""
        return bool(self._waiting) or any(self._reads(each) for each in self._running.values())

    # --- what can be seen --------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        """Return counts of who waits, runs and holds what."""
        return {
            "waiting": len(self._waiting),
            "running": len(self._running),
            "kv_blocks_used": self._ledger.budget - self._ledger.free,
            "kv_blocks": self._ledger.budget,
            **self._prefixes.statistics(),
            "preemptions": self._preemptions,
            "drafts": self._drafts.tried,
            "drafts_right": self._drafts.right,
        }

    def check(self) -> None:
        """Assert every invariant."""
        self._ledger.check()
        waiting = {id_ for _, _, id_ in self._waiting}
        assert waiting.isdisjoint(self._running)
        assert waiting | set(self._running) == set(self._all)
        assert self._waiting == sorted(self._waiting)
        slots = sorted(each.slot for each in self._running.values())
        assert slots == sorted(self._ledger.held)
        for each in self._all.values():
            assert (each.slot >= 0) == (each.phase in (Phase.PREFILL, Phase.DECODE))
            assert each.computed <= each.length
            assert len(each.answer) < each.tokens_max


def _seniority(sequence: Sequence) -> tuple[int, int]:
    return sequence.priority, sequence.order

"""Runs a language model whose layers are on several nodes: the head's side of each step.

Shell: the engine's thread with steps that come back later. It computes the head's own
layers, sends hidden states on, and, when a step has been round, chooses its tokens.
`llm.chain` opens and mends the way round and tells it here by `resume` and `suspend`.

    step -> own layers --frame--> stage 1 --> … --> stage S --frame--> norm, output, tokens
    ^                                                                        |
    '------------------------------- settle ---------------------------------'

Rules:
1. Steps of several lanes are under way at once; a sequence that waits for a token is in one
   of them. Who asks for no token (a piece of a prompt, words said again) is settled as soon
   as the step has left, so its next piece may follow at once: stages keep the order.
2. What comes from another epoch, or was not asked for, is dropped.
3. When the way is lost, everybody begins again with prompt and answer. Tokens live here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor

from mesh.errors import MeshError
from mesh.llm import frames, stage
from mesh.llm.engine import Engine
from mesh.llm.frames import Entry, Frame, Kind
from mesh.llm.lanes import Lanes
from mesh.llm.paces import Paces
from mesh.llm.prefix import Copy
from mesh.llm.runner import Choices, Wish, pick
from mesh.llm.scheduler import Scheduler
from mesh.llm.step import Step
from mesh.llm.trips import Pauses, Trip
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.threads import use_threads

Send = Callable[[bytes, Any], None]


@dataclass(frozen=True, slots=True)
class Way:
    """A way round that is open.

    Attributes:
        epoch: of the chain.
        own: the head's layers; None if it has none.
        stages: how many nodes there are behind the head.
        send: takes header and hidden states to the first of them; called in the thread.
        paces: is told how long each part took.
        sharing: how many of its nodes are on one machine, and share its cores.
    """

    epoch: int
    own: Stage | None
    stages: int
    send: Send
    paces: Paces = field(default_factory=lambda: Paces((), {}))
    sharing: int = 1


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step under way."""

    step: Step | None
    kind: Kind
    sent_s: float
    own_us: int


class Relay(Engine):
    """An engine whose steps go round."""

    def __init__(
        self,
        ends: Ends,
        scheduler: Scheduler,
        decode: Callable[[Many[int]], str],
        limits: frames.Limits,
        *,
        prepare: Callable[[], None] = lambda: None,
        report: Callable[[BaseException], None] = lambda error: None,
        broken: Callable[[int, BaseException], None] = lambda epoch, error: None,
        threads: int = 1,
    ) -> None:
        """Start the thread, with no way open.

        Args:
            ends: embedding, last norm, output.
            scheduler: as of any engine.
            decode: tokens to text.
            limits: of the frames.
            prepare: run first in the thread.
            report: told what a step raised.
            broken: told when an epoch brought what cannot be; called in the thread.
            threads: torch computes with; as `prepare` has set it.
        """
        self._ends, self._limits, self._broken = ends, limits, broken
        self._way: Way | None = None
        self._flights: dict[int, _Flight] = {}
        self._number = 0
        self._last_s = 0.0
        self._rows_trip, self._chunk_trip = Trip(), Trip()
        self._lanes = Lanes(1)
        self._threads, self._share = threads, 1
        self.pauses = Pauses()
        self._recoveries = -1  # the first opening is none
        super().__init__(self, scheduler, decode, prepare=prepare, report=report)

    # --- from any thread ---------------------------------------------------------------

    def resume(self, way: Way) -> None:
        """Go on, by a way that has just been opened."""
        self.post(lambda: self._resume(way))

    def suspend(self) -> None:
        """Stop sending; whoever runs begins again later. Answers are kept."""
        self.post(self._suspend)

    def returned(self, header: object, hidden: Any) -> None:
        """Take what came back from the last stage."""
        arrived_s = time.monotonic()
        self.post(lambda: self._arrive(header, hidden, arrived_s))

    def waits_s(self) -> float:
        """Return how long the oldest step has been under way, 0 if there is none."""
        oldest = list(self._flights.values())[:1]
        return time.monotonic() - oldest[0].sent_s if oldest else 0.0

    def usual_s(self) -> float:
        """Return how long a step takes of late, whichever kind is slower."""
        return max(self._rows_trip.round_ms, self._chunk_trip.round_ms) / 1e3

    def is_idle(self) -> bool:
        """Return whether nobody wants anything."""
        return not self._voices

    def statistics(self) -> dict[str, object]:
        """Return the engine's figures and those of the way round."""
        trip, way = self._rows_trip, self._way
        hops = way.stages + 1 if way and way.stages else 0
        return {
            **super().statistics(),
            "epoch": way.epoch if way else None,
            "recoveries": max(0, self._recoveries),
            "lanes": self._lanes.mode(self._scheduler.speakers()).lanes if way else 0,
            "lanes_chosen": self._lanes.usual(),
            "under_way": len(self._flights),
            **trip.statistics(),
            "hops": hops,
            "hops_ms": round(hops * trip.hop_ms, 3),  # what they add to each token
            "chunk_round_ms": round(self._chunk_trip.round_ms, 3),
            **self.pauses.statistics(),
        }

    # --- in the thread: the way --------------------------------------------------------

    def _resume(self, way: Way) -> None:
        self._suspend()
        self._way, self._number = way, 0
        self._lanes = Lanes(way.stages + 1, way.sharing if self._threads > 1 else 1)
        self._recoveries += 1

    def _suspend(self) -> None:
        if self._way is not None and self._flights:
            self.pauses.begin(time.monotonic() - self.waits_s())
        self._way = None  # first: what is given back below is not to be sent
        self._flights.clear()
        self._perform(self._scheduler.reset())

    def run(self, step: Step, wishes: Mapping[int, Wish]) -> Choices:
        """Not the way here: steps are sent, and come back later."""
        raise AssertionError("a relay sends its steps")

    def give_back(self, slot: int) -> None:
        """Return a slot's memory to the system, on every node, after the steps before."""
        way = self._way
        if way is None:
            return
        if way.own is not None:
            way.own.cache.give_back(slot)
        if way.stages:
            self._send(way, None, self._frame(way, Kind.BACK, (Entry(slot, 0),)), None, 0)

    def _copy(self, way: Way, copy: Copy, target: int) -> None:
        """Let every node copy positions from slot to slot, after the steps before."""
        if way.own is not None:
            way.own.cache.copy(copy.source, target, copy.start, copy.stop)
        for start in range(copy.start, copy.stop if way.stages else 0, frames.COPIED_MAX):
            count = min(frames.COPIED_MAX, copy.stop - start)
            places = Entry(copy.source, start, count), Entry(target, start, count)
            self._send(way, None, self._frame(way, Kind.COPY, places), None, 0)

    # --- in the thread: steps ----------------------------------------------------------

    def _turn(self) -> bool:
        """Send what may be under way besides what is."""
        if not self._voices:
            self.pauses.forget()
        if self._way is None:
            return False
        rows, chunk = None, None
        speakers = self._scheduler.speakers()
        lanes = self._lanes.mode(speakers).lanes
        if self._under_way(Kind.ROWS) < lanes:
            # At least one: who is seated in this very step may have nothing left to read.
            share = max(1, ceil(speakers / lanes))
            rows = self._scheduler.next_step(speakers_max=share, has_chunk=False)
            if rows is not None:
                self._make(rows)
        if self._way is not None and self._under_way(Kind.CHUNK) <= self._way.stages:
            chunk = self._scheduler.next_step(speakers_max=0)
            if chunk is not None:
                self._make(chunk)
        return rows is not None or chunk is not None

    def _under_way(self, kind: Kind) -> int:
        return sum(flight.kind is kind for flight in self._flights.values())

    def _make(self, step: Step) -> None:
        way = self._way
        assert way is not None
        now_s = time.monotonic()
        self._begin(step, now_s)
        try:
            if step.chunk and step.chunk.copy:
                self._copy(way, step.chunk.copy, step.chunk.slot)
            frame, x = self._own(way, step)
            if not way.stages:
                wanted = frame.wanted()
                self._choose(step, x if len(wanted) == x.shape[0] else x[wanted])
                self._count(step, time.monotonic() - now_s, len(wanted))
                return
            hidden = stage.pack(x, self._limits.hidden)
        except Exception as error:  # noqa: BLE001 - a step's root: whoever took part is told
            self._fail(step, error)
            self._settle(step, {})
            return
        own_us = int((time.monotonic() - now_s) * 1e6)
        self._settle(step, {}, step.ids() - set(step.asking()))
        self._send(way, step, frame, hidden, own_us)

    @torch.inference_mode()
    def _own(self, way: Way, step: Step) -> tuple[Frame, Tensor]:
        """Compute the head's layers; `x` may be a buffer."""
        if step.chunk:
            chunk = step.chunk
            stop = chunk.start + len(chunk.tokens)
            x = self._ends.embed(chunk.tokens, range(chunk.start, stop))
            entry = Entry(chunk.slot, chunk.start, len(chunk.tokens), chunk.is_last)
            frame = self._frame(way, Kind.CHUNK, (entry,))
        else:
            positions = [row.position for row in step.rows]
            x = self._ends.embed([row.token for row in step.rows], positions)
            entries = tuple(
                Entry(row.slot, row.position, is_wanted=row.is_last) for row in step.rows
            )
            frame = self._frame(way, Kind.ROWS, entries)
        return frame, x if way.own is None else stage.advance(way.own, frame, x)

    def _frame(self, way: Way, kind: Kind, entries: tuple[Entry, ...]) -> Frame:
        lane = self._under_way(kind) & 0xFF
        self._number += 1
        if kind not in frames.ORDERS:
            self._use(self._lanes.mode(self._scheduler.speakers()).share, kind)
        return Frame(way.epoch, self._number, kind, entries, lane, share=self._share)

    def _use(self, share: int, kind: Kind) -> None:
        """Compute with this share of the threads from here on, on every node."""
        if kind is Kind.CHUNK:
            share = self._lanes.sharing  # prompts are read by several nodes at once
        if share != self._share:
            self._share = share
            use_threads(max(1, self._threads // share))

    def _send(self, way: Way, step: Step | None, frame: Frame, hidden: Any, own_us: int) -> None:
        self._flights[frame.step] = _Flight(step, frame.kind, time.monotonic(), own_us)
        way.send(frames.write(frame), hidden)

    def _arrive(self, header: object, hidden: Any, arrived_s: float) -> None:
        way = self._way
        if way is None:
            return  # from before: whoever was in it has begun again
        try:
            frame = frames.read(header, hidden, self._limits, is_back=True)
        except MeshError as error:
            self._broken(way.epoch, error)
            return
        if frame.epoch != way.epoch:
            return  # an older chain's; its step was begun again
        flight = self._flights.pop(frame.step, None)
        if flight is None or flight.step is None:
            return  # a second time, or one that brings nothing
        self._note(frame, flight, way, arrived_s)
        asking = flight.step.asking()
        if asking:
            self._choose(flight.step, stage.unpack(hidden), asking)

    @torch.inference_mode()
    def _choose(self, step: Step, x: Tensor, ids: Many[int] | None = None) -> None:
        """Choose tokens for the rows that came back and settle who asked for them."""
        queries = step.queries()
        choices: Choices = {}
        try:
            choices = pick(self._ends, x, queries, self._wishes) if queries else {}
        except Exception as error:  # noqa: BLE001 - a step's root: whoever took part is told
            self._fail(step, error)
        self._settle(step, choices, ids)
        if choices:
            self.pauses.end(time.monotonic())

    def _note(self, frame: Frame, flight: _Flight, way: Way, arrived_s: float) -> None:
        step, now_s = flight.step, time.monotonic()
        assert step is not None
        is_rows = frame.kind is Kind.ROWS
        trip = self._rows_trip if is_rows else self._chunk_trip
        spent_s = (flight.own_us / 1e6, *(us / 1e6 for us in frame.spent_us))
        waited_s = now_s - arrived_s  # for the head, which was at another step
        trip.note(spent_s, arrived_s - flight.sent_s, waited_s, has_waited=frame.has_waited)
        way.paces.note(spent_s, now_s)
        if is_rows:
            is_calm = not self._under_way(Kind.CHUNK)
            speakers = self._scheduler.speakers()
            self._lanes.note(speakers, len(step.asking()), now_s, is_calm=is_calm)
        # Steps overlap: each counts from when the one before it was back.
        took_s = now_s - max(flight.sent_s - flight.own_us / 1e6, self._last_s)
        self._last_s = now_s
        self._count(step, took_s, len(step.asking()))

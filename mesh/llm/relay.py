"""Runs a language model whose layers are on several nodes: the head's side of each step.

Shell: the engine's thread, which begins what is new and reads prompts, and one thread for each
lane, which chooses the tokens of a step that has been round and sends the next one. All of them
hold one lock, and let go of it while they compute or wait. `llm.chain` opens and mends the way
round and tells it here by `resume` and `suspend`.

    step -> own layers --frame--> stage 1 --> … --> stage S --frame--> norm, output, tokens
    ^                                                                        |
    '------------------------------- settle ---------------------------------'

Rules:
1. Steps of several lanes are under way at once; a sequence that waits for a token is in one
   of them. Who asks for no token (a piece of a prompt, words said again) is settled as soon
   as the step has left, so its next piece may follow at once: stages keep the order
   (`llm.traffic`).
2. What comes from another epoch, or was not asked for, is dropped.
3. When the way is lost, everybody begins again with prompt and answer. Tokens live here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch import Tensor

from mesh.errors import MeshError
from mesh.llm import frames, stage
from mesh.llm.cores import CORES, Seat
from mesh.llm.engine import Engine
from mesh.llm.frames import Entry, Frame, Kind
from mesh.llm.lanes import Lanes, Mode
from mesh.llm.passage import Departures
from mesh.llm.prefix import Copy
from mesh.llm.runner import Choices, Wish, pick
from mesh.llm.scheduler import Scheduler
from mesh.llm.step import Step
from mesh.llm.traffic import Flight, Traffic, slots_of
from mesh.llm.trips import Pauses, Trip
from mesh.llm.way import Way
from mesh.machine import TICK
from mesh.models.ends import Ends


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
        self._departures = Departures()
        self._monitor = threading.Condition(threading.Lock())
        self._traffic, self._mode, self._computing = Traffic(), Mode(1), 0
        self._seat = Seat()
        self._last_s = 0.0
        self._rows_trip, self._chunk_trip = Trip(), Trip()
        self._lanes = Lanes(1)
        self._threads = threads
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
        """Take what came back from the last stage, and send the next step; in a lane's thread."""
        arrived_s = time.monotonic()
        with self._monitor:
            if self._is_closed:
                return
            lane = self._arrive(header, hidden, arrived_s)
            self._perform(self._scheduler.handle(TICK, time.monotonic()))
            self._speak(lane)
            self._hand_over()
            if self._scheduler.is_reading() or self._has_room():
                self._inbox.put(_nothing)  # prompts, other lanes, deadlines: the engine's thread
            departures = self._departures
        departures.flush()

    def waits_s(self) -> float:
        """Return how long the oldest step has been under way, 0 if there is none."""
        oldest = self._traffic.flights()[:1]
        return time.monotonic() - oldest[0].sent_s if oldest else 0.0

    def usual_s(self) -> float:
        """Return how long a step takes of late, whichever kind is slower."""
        return max(self._rows_trip.round_ms, self._chunk_trip.round_ms) / 1e3

    def is_idle(self) -> bool:
        """Return whether nobody wants anything."""
        return not self._voices

    def statistics(self) -> dict[str, object]:
        """Return the engine's figures and those of the way round."""
        with self._monitor:
            return self._figures()

    def _figures(self) -> dict[str, object]:
        trip, way = self._rows_trip, self._way
        hops = way.stages + 1 if way and way.stages else 0
        return {
            **super().statistics(),
            "epoch": way.epoch if way else None,
            "recoveries": max(0, self._recoveries),
            "lanes": self._lanes.mode(self._scheduler.speakers()).lanes if way else 0,
            "lanes_chosen": self._lanes.usual(),
            "under_way": len(self._traffic.flights()),
            **trip.statistics(),
            "hops": hops,
            "hops_ms": round(hops * trip.hop_ms, 3),  # what they add to each token
            "chunk_round_ms": round(self._chunk_trip.round_ms, 3),
            **self.pauses.statistics(),
        }

    # --- the lock ----------------------------------------------------------------------

    def _work(self) -> None:
        with self._monitor:
            super()._work()

    def _release(self) -> None:
        """Let go of the lock, and of the frames that were chosen."""
        departures = self._departures
        self._monitor.release()
        departures.flush()

    def _take(self, *, wait: bool) -> None:
        self._release()
        self._monitor.acquire()
        super()._take(wait=wait)

    def _wait(self, timeout_s: float | None) -> Any:
        self._release()
        try:
            return self._inbox.get(timeout=timeout_s)
        finally:
            self._monitor.acquire()

    @contextmanager
    def _compute(self, share: int, lane: int) -> Iterator[None]:
        """Let go of the lock meanwhile; no more compute at once than the mode says."""
        abreast = self._mode.abreast
        while self._computing >= self._mode.abreast:
            self._departures.flush()  # to wait lets go of the lock, too
            self._monitor.wait()
        self._computing += 1
        self._release()
        try:
            self._seat.take(max(1, self._threads // share), lane, abreast)
            yield
        finally:
            self._monitor.acquire()
            self._computing -= 1
            self._monitor.notify_all()

    # --- under the lock: the way -------------------------------------------------------

    def _resume(self, way: Way) -> None:
        self._suspend()
        self._way, self._traffic = way, Traffic(max(1, len(way.sends)))
        self._departures = Departures(way.sends)
        most = parts = way.stages + 1
        if way.sharing == parts:  # more lanes would queue for cores
            most = min(parts, len(CORES) or parts)
        self._lanes = Lanes(most, way.sharing, self._threads)
        self._recoveries += 1

    def _suspend(self) -> None:
        if self._way is not None and self._traffic.flights():
            self.pauses.begin(time.monotonic() - self.waits_s())
        self._way = None  # first: what is given back below is not to be sent
        self._traffic = Traffic()
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
        self._order(way, Kind.BACK, Entry(slot, 0))

    def _copy(self, way: Way, copy: Copy, target: int) -> None:
        """Let every node copy positions from slot to slot, after the steps before."""
        if way.own is not None:
            way.own.cache.copy(copy.source, target, copy.start, copy.stop)
        for start in range(copy.start, copy.stop, frames.COPIED_MAX):
            count = min(frames.COPIED_MAX, copy.stop - start)
            self._order(
                way, Kind.COPY, Entry(copy.source, start, count), Entry(target, start, count)
            )

    def _order(self, way: Way, kind: Kind, *entries: Entry) -> None:
        if way.stages:
            slots = slots_of(entries)
            flight = Flight(None, kind, self._traffic.lane(slots), slots)
            self._send(way, flight, Frame(way.epoch, 0, kind, entries), None)

    # --- under the lock: steps ---------------------------------------------------------

    def _turn(self) -> bool:
        """Send what may be under way besides what is; in the engine's thread."""
        if not self._voices:
            self.pauses.forget()
        has_spoken, way = self._speak(), self._way
        # One piece of a prompt at a time: what it copies has been sent by then.
        if way is None or self._traffic.is_making(Kind.CHUNK):
            return has_spoken
        chunk = None
        if self._traffic.under_way(Kind.CHUNK) <= way.stages:
            chunk = self._scheduler.next_step(speakers_max=0)
            if chunk is not None:
                self._advance(way, chunk, Kind.CHUNK)
        return has_spoken or chunk is not None

    def _has_room(self) -> bool:
        return self._traffic.under_way(Kind.ROWS) < self._mode.lanes

    def _speak(self, lane: int = 0) -> bool:
        """Send rows, if fewer are under way than may be."""
        way = self._way
        if way is None:
            return False
        speakers = self._scheduler.speakers()
        self._mode = self._lanes.mode(speakers)
        lanes = self._mode.lanes
        if not self._has_room():
            return False
        # At least one: who is seated in this very step may have nothing left to read.
        share = max(1, ceil(speakers / lanes))
        rows = self._scheduler.next_step(speakers_max=share, has_chunk=False)
        if rows is not None:
            self._advance(way, rows, Kind.ROWS, lane)
        return rows is not None

    def _advance(self, way: Way, step: Step, kind: Kind, preferred: int = 0) -> None:
        now_s = time.monotonic()
        self._begin(step, now_s)
        frame = self._frame(way, step, kind)
        traffic, mode, slots = self._traffic, self._mode, slots_of(frame.entries)
        is_rows = kind is Kind.ROWS
        lane = traffic.row_lane(preferred, mode.lanes) if is_rows else traffic.lane(slots)
        flight = Flight(step, kind, lane, slots)
        traffic.make(flight)
        try:
            if step.chunk and step.chunk.copy:
                self._copy(way, step.chunk.copy, step.chunk.slot)
            with self._compute(frame.share, lane):
                began_s = time.monotonic()
                x = self._own(way, step, frame)
                hidden = stage.pack(x, self._limits.hidden)
                own_us = int((time.monotonic() - began_s) * 1e6)
        except Exception as error:  # noqa: BLE001 - a step's root: whoever took part is told
            if self._way is way:
                self._fail(step, error)
                self._settle(step, {})
            return
        finally:
            traffic.made(flight)
        if self._way is not way:
            return  # lost meanwhile: whoever is in it has begun again
        if way.stages:
            self._send(way, replace(flight, own_us=own_us), frame, hidden)
            self._settle(step, {}, step.ids() - set(step.asking()))
        else:
            wanted = frame.wanted()
            self._choose(way, step, frame, hidden[wanted])
            self._count(step, time.monotonic() - now_s, len(wanted))

    @torch.inference_mode()
    def _own(self, way: Way, step: Step, frame: Frame) -> Tensor:
        """Compute the head's layers; perhaps a buffer."""
        if chunk := step.chunk:
            stop = chunk.start + len(chunk.tokens)
            x = self._ends.embed(chunk.tokens, range(chunk.start, stop))
        else:
            positions = [row.position for row in step.rows]
            x = self._ends.embed([row.token for row in step.rows], positions)
        return x if way.own is None else stage.advance(way.own, frame, x)

    def _frame(self, way: Way, step: Step, kind: Kind) -> Frame:
        share, entries = self._mode.share, tuple[Entry, ...]()
        if chunk := step.chunk:
            entries = (Entry(chunk.slot, chunk.start, len(chunk.tokens), chunk.is_last),)
            share = self._lanes.sharing  # prompts are read by several nodes at once
        else:
            entries = tuple(
                Entry(row.slot, row.position, is_wanted=row.is_last) for row in step.rows
            )
        return Frame(way.epoch, 0, kind, entries, share=share, abreast=self._mode.abreast)

    def _send(self, way: Way, flight: Flight, frame: Frame, hidden: Any) -> None:
        after = self._traffic.after(flight.lane, flight.slots)
        number = self._traffic.send(replace(flight, sent_s=time.monotonic()))
        numbered = replace(frame, step=number, lane=flight.lane, after=after)
        self._departures.put(flight.lane, frames.write(numbered), hidden)

    def _arrive(self, header: object, hidden: Any, arrived_s: float) -> int:
        """Take what came back; return its lane."""
        way = self._way
        if way is None:
            return 0  # from before: whoever was in it has begun again
        try:
            frame = frames.read(header, hidden, self._limits, is_back=True)
        except MeshError as error:
            self._broken(way.epoch, error)
            return 0
        # Otherwise an older chain's, a second time, or one that brings nothing.
        flight = self._traffic.back(frame.step) if frame.epoch == way.epoch else None
        if flight is not None and flight.step is not None:
            self._note(frame, flight, flight.step, way, arrived_s)
            asking = flight.step.asking()
            if asking:
                self._choose(way, flight.step, frame, hidden, asking)
        return frame.lane

    def _choose(
        self, way: Way, step: Step, frame: Frame, hidden: Any, ids: Many[int] | None = None
    ) -> None:
        """Choose tokens for the rows that came back and settle who asked for them."""
        queries = step.queries()
        wishes = {query.id: self._wishes[query.id] for query in queries}
        choices: Choices = {}
        try:
            if queries:
                with self._compute(frame.share, frame.lane), torch.inference_mode():
                    choices = pick(self._ends, stage.unpack(hidden), queries, wishes)
        except Exception as error:  # noqa: BLE001 - a step's root: whoever took part is told
            if self._way is way:
                self._fail(step, error)
        if self._way is not way:
            return  # lost meanwhile
        self._settle(step, choices, ids)
        if choices:
            self.pauses.end(time.monotonic())

    def _note(self, frame: Frame, flight: Flight, step: Step, way: Way, arrived_s: float) -> None:
        now_s = time.monotonic()
        is_rows = frame.kind is Kind.ROWS
        trip = self._rows_trip if is_rows else self._chunk_trip
        spent_s = (flight.own_us / 1e6, *(us / 1e6 for us in frame.spent_us))
        waited_s = now_s - arrived_s  # for the head, which was at another step
        trip.note(spent_s, arrived_s - flight.sent_s, waited_s, has_waited=frame.has_waited)
        way.paces.note(spent_s, now_s)
        if is_rows:
            is_calm = not self._traffic.under_way(Kind.CHUNK)
            speakers = self._scheduler.speakers()
            self._lanes.note(speakers, len(step.asking()), now_s, is_calm=is_calm)
        # Steps overlap: each counts from when the one before it was back.
        took_s = now_s - max(flight.sent_s - flight.own_us / 1e6, self._last_s)
        self._last_s = now_s
        self._count(step, took_s, len(step.asking()))


def _nothing() -> None:
    """Let the engine's thread look whether anything is due."""

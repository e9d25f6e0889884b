"""Computes one part of a split model, frame after frame, each lane in a thread of its own.

Shell: a thread waits for a frame, checks it (`llm.frames`), computes, sends, and waits for
the next; no event loop is on the way (`llm.passage`). Whoever has sent a frame sleeps at once,
so that the core it was computed on is free for whoever computes it next: of each lane one
thread wants a core at a time, wherever on the way. A stage decides nothing: which sequences,
where, when memory is given back, and what must be computed before is written in the frames.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mesh.errors import ConnectionLost, RemoteProtocolError
from mesh.llm import frames
from mesh.llm.cores import Seat
from mesh.llm.frames import Frame, Kind
from mesh.llm.traffic import Turns
from mesh.models.decoder import Stage

log = logging.getLogger(__name__)

SMOOTH = 0.05  # weight of the newest frame in mean times
AT_ONCE_S = 5e-5  # a read that finds something takes less, one that waits mostly more

Array = np.ndarray[Any, Any]


def unpack(hidden: Array) -> Tensor:
    """Return `[T, C]` float32 from what travelled; a copy, which may be written."""
    copied = torch.from_numpy(hidden.copy())
    return copied if copied.dtype == torch.float32 else copied.view(torch.bfloat16).float()


def pack(x: Tensor, hidden: str) -> Array:
    """Return `[T, C]` as it travels; a copy, as `x` may be a buffer."""
    if hidden == "float32":
        return x.numpy().copy()
    return x.to(torch.bfloat16).view(torch.uint16).numpy()


def advance(stage: Stage, frame: Frame, x: Tensor) -> Tensor:
    """Return `[T, C]` behind the stage's layers; perhaps a buffer."""
    if frame.kind is Kind.CHUNK:
        return stage.prefill(x, frame.entries[0].slot, frame.entries[0].start)
    slots = [entry.slot for entry in frame.entries]
    return stage.decode(x, stage.rows(slots, [entry.start for entry in frame.entries]))


@dataclass(slots=True)
class Pace:
    """How a stage gets on; written by its threads in turn, read by anybody."""

    received: int = 0  # the newest step that arrived
    done: int = 0  # the newest step that was computed
    compute_ms: float = 0.0
    idle_ms: float = 0.0  # waited for a frame
    busy_s: float = 0.0
    dropped: int = 0  # frames of another epoch, or that came twice


class Passage(Protocol):
    """Where frames come from and go to; `llm.passage.Passage` is one."""

    def receive(self) -> tuple[object, Any] | None:
        """Wait for header and hidden states of the next frame; None: there are no more."""

    def deliver(self, header: bytes, hidden: Any) -> None:
        """Send a frame on; does not wait."""

    def close(self) -> None:
        """Let `receive` return None; called in any thread."""

    def release(self) -> None:
        """Give back what it holds; the thread's last word."""


class StageThreads:
    """A part of a model at work: a thread for each lane, all with the same keys and values."""

    def __init__(
        self,
        stage: Stage,
        limits: frames.Limits,
        *,
        epoch: int,
        threads: int,
        is_last: bool,
        passages: Sequence[Passage],
        failed: Callable[[BaseException], None],
        delay_s: float = 0.0,
    ) -> None:
        """Start the threads.

        Args:
            stage: the layers, with their keys and values.
            limits: of the instance.
            epoch: of the chain; frames of another one are dropped.
            threads: torch computes with, in all that go abreast.
            is_last: only rows that were wanted go on from here.
            passages: bring frames and take them on, one for each lane; each is used by its
                lane's thread alone.
            failed: told why a thread has ended, unless they were closed; called in the thread.
            delay_s: added to each step, by tests of nodes that are slow.
        """
        self.stage, self.limits, self.pace = stage, limits, Pace()
        self._epoch, self._threads, self._is_last = epoch, threads, is_last
        self._is_closed, self._seat = False, Seat()
        self._passages, self._failed, self.delay_s = passages, failed, delay_s
        self._turns, self._changed = Turns(len(passages)), threading.Condition()
        self._workers = [
            threading.Thread(target=self._work, args=lane, name="mesh-stage", daemon=True)
            for lane in enumerate(passages)
        ]
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """End the threads after the frames at hand; does not wait."""
        self._is_closed = True
        for passage in self._passages:
            passage.close()
        with self._changed:
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until the threads have ended."""
        for worker in self._workers:
            worker.join()

    def _work(self, lane: int, passage: Passage) -> None:
        try:
            self._compute_all(lane, passage)
        except Exception as error:  # noqa: BLE001 - the thread's root: the chain is told
            self._tell(error)
        finally:
            passage.release()

    def _compute_all(self, lane: int, passage: Passage) -> None:
        ready_s, received = time.monotonic(), 0
        while (found := passage.receive()) is not None and not self._is_closed:
            came_s = time.monotonic()
            frame = frames.read(*found, self.limits)
            if frame.epoch != self._epoch or frame.step <= received:
                with self._changed:
                    self.pace.dropped += 1
                continue
            self._check(frame, lane)
            received = frame.step
            # What was here at once has come while the frame before was computed.
            has_waited = came_s - ready_s < AT_ONCE_S and self.pace.done > 0
            has_waited |= self._begin(frame)
            if self._is_closed:
                return
            began_s = time.monotonic()
            self._seat.take(max(1, self._threads // frame.share), lane, frame.abreast)
            hidden = self._compute(frame, found[1])
            spent_us = int((time.monotonic() - began_s) * 1e6)
            passed = replace(
                frame,
                spent_us=(*frame.spent_us, spent_us),
                has_waited=frame.has_waited or has_waited,
            )
            passage.deliver(frames.write(passed), hidden)
            self._end(frame, began_s, came_s - ready_s)
            ready_s = time.monotonic()
        self._tell(ConnectionLost("the stage before has ended"))

    def _check(self, frame: Frame, lane: int) -> None:
        lanes = len(self._passages)
        if frame.lane != lane or any(each >= lanes for each, _ in frame.after):
            raise RemoteProtocolError(f"a step of lane {frame.lane} on lane {lane} of {lanes}")

    def _begin(self, frame: Frame) -> bool:
        """Wait until a frame may be computed; return whether it had to."""
        turns = self._turns
        with self._changed:
            self.pace.received = max(self.pace.received, frame.step)
            has_waited = not turns.may_begin(frame.after, frame.abreast)
            while not turns.may_begin(frame.after, frame.abreast) and not self._is_closed:
                self._changed.wait()
            turns.begin()
        return has_waited

    def _end(self, frame: Frame, began_s: float, idle_s: float) -> None:
        """Let frames be computed that waited for this one."""
        with self._changed:
            self._turns.end(frame.lane, frame.step)
            self._changed.notify_all()
            self._note(frame.step, began_s, idle_s)

    def _tell(self, error: BaseException) -> None:
        if not self._is_closed:
            self._failed(error)

    @torch.inference_mode()
    def _compute(self, frame: Frame, hidden: Any) -> Any:
        """Return what goes on; None where nothing does."""
        found = None
        if frame.kind is Kind.BACK:
            for entry in frame.entries:
                self.stage.cache.give_back(entry.slot)
        elif frame.kind is Kind.COPY:
            source, target = frame.entries
            stop = source.start + source.count
            self.stage.cache.copy(source.slot, target.slot, source.start, stop)
        else:
            found = self._pass(frame, hidden)
        if self.delay_s:
            time.sleep(self.delay_s)
        return found

    def _pass(self, frame: Frame, hidden: Array) -> Array | None:
        x = advance(self.stage, frame, unpack(hidden))
        if self._is_last:
            wanted = frame.wanted()
            if not wanted:
                return None
            x = x if len(wanted) == x.shape[0] else x[wanted]
        return pack(x, self.limits.hidden)

    def _note(self, step: int, began_s: float, idle_s: float) -> None:
        pace, took_s = self.pace, time.monotonic() - began_s
        share = SMOOTH if pace.done else 1.0
        pace.done = max(pace.done, step)
        pace.compute_ms += share * (took_s * 1e3 - pace.compute_ms)
        pace.idle_ms += share * (idle_s * 1e3 - pace.idle_ms)
        pace.busy_s += took_s

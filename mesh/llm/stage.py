"""Computes one part of a split model in a thread of its own, frame after frame.

Shell: the thread waits for a frame, checks it (`llm.frames`), computes, sends, and waits for
the next; no event loop is on the way (`llm.passage`). A stage decides nothing: which
sequences, where, and when memory is given back is written in the frames.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mesh.errors import ConnectionLost
from mesh.llm import frames
from mesh.llm.frames import Frame, Kind
from mesh.models.decoder import Stage
from mesh.models.threads import use_threads

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
    """How a stage gets on; written by its thread, read by anybody."""

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


class StageThread:
    """A part of a model at work."""

    def __init__(
        self,
        stage: Stage,
        limits: frames.Limits,
        *,
        epoch: int,
        threads: int,
        is_last: bool,
        passage: Passage,
        failed: Callable[[BaseException], None],
        delay_s: float = 0.0,
    ) -> None:
        """Start the thread.

        Args:
            stage: the layers, with their keys and values.
            limits: of the instance.
            epoch: of the chain; frames of another one are dropped.
            threads: torch computes with.
            is_last: only rows that were wanted go on from here.
            passage: brings frames and takes them on; used by the thread alone.
            failed: told why the thread has ended, unless it was closed; called in the thread.
            delay_s: added to each step, by tests of nodes that are slow.
        """
        self.stage, self.limits, self.pace = stage, limits, Pace()
        self._epoch, self._threads, self._is_last = epoch, threads, is_last
        self._is_closed, self._used = False, 0
        self._passage, self._failed, self.delay_s = passage, failed, delay_s
        self._thread = threading.Thread(target=self._work, name="mesh-stage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after the frame at hand; does not wait."""
        self._is_closed = True
        self._passage.close()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _work(self) -> None:
        self._use(self._threads)
        try:
            self._compute_all()
        except Exception as error:  # noqa: BLE001 - the thread's root: the chain is told
            self._tell(error)
        finally:
            self._passage.release()

    def _compute_all(self) -> None:
        ready_s = time.monotonic()
        while (found := self._passage.receive()) is not None and not self._is_closed:
            began_s = time.monotonic()
            frame = frames.read(*found, self.limits)
            if frame.epoch != self._epoch or frame.step <= self.pace.received:
                self.pace.dropped += 1
                continue
            self.pace.received = frame.step
            self._use(max(1, self._threads // frame.share))
            # What was here at once has come while the frame before was computed.
            has_waited = began_s - ready_s < AT_ONCE_S and self.pace.done > 0
            self._compute(frame, found[1], began_s, has_waited=has_waited)
            self._note(frame.step, began_s, began_s - ready_s)
            ready_s = time.monotonic()
        self._tell(ConnectionLost("the stage before has ended"))

    def _use(self, count: int) -> None:
        if count != self._used:
            self._used = count
            use_threads(count)

    def _tell(self, error: BaseException) -> None:
        if not self._is_closed:
            self._failed(error)

    @torch.inference_mode()
    def _compute(self, frame: Frame, hidden: Any, began_s: float, *, has_waited: bool) -> None:
        if frame.kind is Kind.BACK:
            hidden = None
            for entry in frame.entries:
                self.stage.cache.give_back(entry.slot)
        elif frame.kind is Kind.COPY:
            hidden, (source, target) = None, frame.entries
            stop = source.start + source.count
            self.stage.cache.copy(source.slot, target.slot, source.start, stop)
        else:
            hidden = self._pass(frame, hidden)
        if self.delay_s:
            time.sleep(self.delay_s)
        spent_us = int((time.monotonic() - began_s) * 1e6)
        passed = replace(
            frame,
            spent_us=(*frame.spent_us, spent_us),
            has_waited=frame.has_waited or has_waited,
        )
        self._passage.deliver(frames.write(passed), hidden)

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
        pace.done = step
        pace.compute_ms += share * (took_s * 1e3 - pace.compute_ms)
        pace.idle_ms += share * (idle_s * 1e3 - pace.idle_ms)
        pace.busy_s += took_s

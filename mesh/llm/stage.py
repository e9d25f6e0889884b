"""Computes one part of a split model in a thread of its own, frame after frame.

Shell: frames come from the event loop, which has checked them (`llm.frames`), and results
go back to it, one wake-up each. A stage decides nothing: which sequences, where, and when
memory is given back is written in the frames.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mesh.llm import frames
from mesh.llm.frames import Frame, Kind
from mesh.models.decoder import Stage
from mesh.models.threads import use_threads

log = logging.getLogger(__name__)

SMOOTH = 0.05  # weight of the newest frame in mean times

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
    wait_ms: float = 0.0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Job:
    frame: Frame
    hidden: Any
    arrived_s: float


class StageThread:
    """A part of a model at work."""

    def __init__(
        self,
        stage: Stage,
        limits: frames.Limits,
        *,
        threads: int,
        is_last: bool,
        deliver: Callable[[bytes, Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Start the thread.

        Args:
            stage: the layers, with their keys and values.
            limits: of the instance.
            threads: torch computes with.
            is_last: only rows that were wanted go on from here.
            deliver: takes header and hidden states of each frame; called in the thread.
            failed: told what a frame raised; called in the thread, nothing follows.
        """
        self.stage, self.limits, self.pace = stage, limits, Pace()
        self._threads, self._is_last = threads, is_last
        self._is_closed = False
        self._deliver, self._failed = deliver, failed
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mesh-stage", daemon=True)
        self._thread.start()

    def submit(self, frame: Frame, hidden: Any) -> None:
        """Queue a frame that was read within the limits."""
        self.pace.received = frame.step
        self._jobs.put(_Job(frame, hidden, time.monotonic()))

    def close(self) -> None:
        """End the thread after the frame at hand; does not wait."""
        self._is_closed = True
        self._jobs.put(None)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _work(self) -> None:
        use_threads(self._threads)
        while (job := self._jobs.get()) is not None and not self._is_closed:
            try:
                self._compute(job)
            except Exception as error:  # noqa: BLE001 - the thread's root: the chain is told
                self._failed(error)
                return

    @torch.inference_mode()
    def _compute(self, job: _Job) -> None:
        began_s, frame = time.monotonic(), job.frame
        hidden = None
        if frame.kind is Kind.BACK:
            for entry in frame.entries:
                self.stage.cache.give_back(entry.slot)
        else:
            hidden = self._pass(frame, job.hidden)
        took_s, waited_s = time.monotonic() - began_s, began_s - job.arrived_s
        passed = replace(
            frame,
            compute_us=frame.compute_us + int(took_s * 1e6),
            wait_us=frame.wait_us + int(waited_s * 1e6),
        )
        self._note(frame.step, took_s, waited_s)
        self._deliver(frames.write(passed), hidden)

    def _pass(self, frame: Frame, hidden: Array) -> Array | None:
        x = advance(self.stage, frame, unpack(hidden))
        if self._is_last:
            wanted = frame.wanted()
            if not wanted:
                return None
            x = x if len(wanted) == x.shape[0] else x[wanted]
        return pack(x, self.limits.hidden)

    def _note(self, step: int, took_s: float, waited_s: float) -> None:
        pace = self.pace
        share = SMOOTH if pace.done else 1.0
        pace.done = step
        pace.compute_ms += share * (took_s * 1e3 - pace.compute_ms)
        pace.wait_ms += share * (waited_s * 1e3 - pace.wait_ms)
        pace.busy_s += took_s

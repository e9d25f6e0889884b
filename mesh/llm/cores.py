"""Keeps lanes that go abreast on cores of their own, and sets how many threads they use.

Shell: sets the calling thread's number of threads, and the cores it may run on. A frame wakes
whoever computes it next, and the system puts the woken beside its waker, or where it ran last;
so two lanes meet on one core, where one waits, though another core is idle, or does what is
less urgent. Lane by lane in its place, nobody meets anybody.
"""

from __future__ import annotations

import contextlib
import os
import threading

from mesh.models.threads import use_threads


def _allowed() -> list[int]:
    """Return the cores that this process may run on; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


CORES = _allowed()


class Seat(threading.local):
    """Where the calling thread computes, and with how many threads; nothing is set twice."""

    threads, core = 0, -1

    def take(self, threads: int, lane: int, abreast: int) -> None:
        """Compute with so many threads, in the place of a lane where several go abreast."""
        is_placed = threads == 1 and 1 < abreast <= len(CORES)
        core = CORES[lane % len(CORES)] if is_placed else -1
        if core != self.core:
            self.core = core
            # Before threads are made: those keep to the cores of who made them.
            _keep_to(CORES if core < 0 else [core])
        if threads != self.threads:
            self.threads = threads
            use_threads(threads)


def leave() -> None:
    """Let the calling thread run anywhere: it may have been made by one that has its place."""
    if CORES:
        _keep_to(CORES)


def _keep_to(cores: list[int]) -> None:
    with contextlib.suppress(OSError):  # cores may be taken away from a running process
        os.sched_setaffinity(0, cores)

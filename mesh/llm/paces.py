"""Decides which node of a split model computes so slowly that the layers are cut anew.

Pure. Every step brings the time of each part. Parts of one step had the same rows, so
their times per layer compare whatever the step was; the lower median of them is what a layer
costs. A node is slow when it takes several times what its plan says, in most of its last
steps, for seconds on end: a moment's noise is not enough, and after a new cut others follow
only after a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_low

from mesh.llm.split import Part

SLOW_TIMES = 3.0  # a busy neighbour on the same cores makes it twice; a throttled node, five
SLOW_S = 3.0  # so long; compilers and backups come and go in less
SLOW_STEPS = 9  # most of the last so many
GAP_S = 15.0  # between cuts because somebody is slow: each makes all who run begin again
FORGET_S_MIN, FORGET_S_MAX = 60.0, 3600.0  # then it is tried again; doubled each time


@dataclass(frozen=True, slots=True)
class Slow:
    """A node that takes `times` as long as planned; its speed is now this."""

    node: str
    times: float
    speed: float


class Paces:
    """How fast the parts of one way round are.

    Args:
        parts: of the plan, the head's first.
        speeds: that the plan reckoned with; 1 where none is given.
    """

    def __init__(self, parts: Sequence[Part], speeds: Mapping[str, float]) -> None:
        self._parts = tuple(parts)
        self._speeds = dict(speeds)
        self._recent = [deque[float](maxlen=SLOW_STEPS) for _ in parts]
        self._shown: dict[str, float] = {}
        self._since_s: dict[str, float] = {}  # when it began to be slow
        self.slow: Slow | None = None

    def note(self, spent_s: Sequence[float], now_s: float) -> None:
        """Take the times of one step, one per part; `slow` says whom they make slow."""
        if len(spent_s) != len(self._parts):
            return  # not of this way
        each_s = [
            took_s / part.count if part.count else None
            for took_s, part in zip(spent_s, self._parts, strict=True)
        ]
        layer_s = median_low([took_s for took_s in each_s if took_s is not None])
        for at, took_s in enumerate(each_s):
            if took_s is not None and layer_s > 0:
                self._recent[at].append(took_s / layer_s)
        self.slow = self._slowest(now_s)

    def shown(self) -> dict[str, float]:
        """Return by node how often as long as planned its layers take of late."""
        return dict(self._shown)

    def _slowest(self, now_s: float) -> Slow | None:
        found: Slow | None = None
        for part, recent in zip(self._parts, self._recent, strict=True):
            if len(recent) < SLOW_STEPS:
                continue
            ratio = median(recent)
            times = ratio * self._speeds.get(part.node, 1.0)
            self._shown[part.node] = round(times, 2)
            if times < SLOW_TIMES:
                self._since_s.pop(part.node, None)
                continue
            since_s = self._since_s.setdefault(part.node, now_s)
            if now_s - since_s >= SLOW_S and (found is None or times > found.times):
                found = Slow(part.node, times, 1 / ratio)
        return found


@dataclass(slots=True)
class _Memory:
    speed: float
    until_s: float
    wait_s: float


class Speeds:
    """What is remembered of slow nodes, so that plans reckon with it; it is forgotten in time."""

    def __init__(self) -> None:
        self._slow: dict[str, _Memory] = {}
        self._next_s = 0.0

    def may_cut(self, now_s: float) -> bool:
        """Return whether the last cut because of a slow node is long enough ago."""
        return now_s >= self._next_s

    def remember(self, slow: Slow, now_s: float) -> None:
        """Reckon with it from here on, longer each time."""
        before = self._slow.get(slow.node)
        wait_s = min(FORGET_S_MAX, 2 * before.wait_s) if before else FORGET_S_MIN
        self._slow[slow.node] = _Memory(slow.speed, now_s + wait_s, wait_s)
        self._next_s = now_s + GAP_S

    def known(self, now_s: float) -> dict[str, float]:
        """Return the speeds to reckon with now."""
        return {name: each.speed for name, each in self._slow.items() if now_s < each.until_s}

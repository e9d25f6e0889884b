"""Chooses how many steps of rows are under way at once, by what gave more tokens.

Pure. With several, stages compute at the same time, each with fewer rows; with one, each row
waits for nobody and weights are read once. Which is faster depends on cores, threads,
hops and kernels, so it is tried: for each size of crowd, between windows of the usual number
one window of a neighbour's.

    usual | neighbour | usual     the neighbour must beat both by a margin
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

LANE_ROWS = 4  # the first guess: narrow products take four rows in about the time of one
WINDOW_S, WINDOW_STEPS = 0.4, 12  # a window lasts until both have passed
SETTLE_STEPS = 4  # after a change: steps of before are still under way
BETTER = 1.04  # repeated windows of one number differ by 2 % on a quiet machine
AGAIN_S_MIN, AGAIN_S_MAX = 1.0, 60.0  # between trials; doubled whenever one changes nothing


@dataclass(slots=True)
class _Crowd:
    """What is known of one size of crowd; `rates` are those of the windows of a trial."""

    usual: int
    rates: list[float] = field(default_factory=list)
    trial: int = 0
    is_up: bool = True
    again_s: float = 0.0
    wait_s: float = AGAIN_S_MIN


class Lanes:
    """The number of lanes of one way round.

    Args:
        most: the nodes of the way; more steps than that only wait for each other.
    """

    def __init__(self, most: int) -> None:
        assert most > 0
        self._most = most
        self._crowds: dict[int, _Crowd] = {}
        self._size = 0  # of the crowd that the window counts
        self._began_s = 0.0
        self._steps = self._tokens = 0

    def count(self, speakers: int) -> int:
        """Return how many steps may be under way."""
        crowd = self._crowd(speakers)
        # In a trial the second window is the neighbour's.
        return crowd.trial if len(crowd.rates) == 1 and crowd.trial else crowd.usual

    def note(self, speakers: int, tokens: int, now_s: float, *, is_calm: bool) -> None:
        """Count a step that came back.

        Args:
            speakers: how many speak.
            tokens: that it gave.
            now_s: monotonic.
            is_calm: nothing else was computed meanwhile, such as prompts.
        """
        size = _size_of(speakers)
        if size != self._size or not is_calm:
            self._crowd(speakers).rates.clear()
            self._begin(size, now_s)
            return
        self._steps += 1
        if self._steps == SETTLE_STEPS:
            self._began_s, self._tokens = now_s, 0
        elif self._steps > SETTLE_STEPS:
            self._tokens += tokens
        took_s = now_s - self._began_s
        if self._steps >= SETTLE_STEPS + WINDOW_STEPS and took_s >= WINDOW_S:
            self._judge(self._crowd(speakers), speakers, self._tokens / took_s, now_s)
            self._begin(size, now_s)

    def usual(self) -> dict[int, int]:
        """Return the number chosen, by the largest crowd of each size."""
        return {1 << size: crowd.usual for size, crowd in sorted(self._crowds.items())}

    def _begin(self, size: int, now_s: float) -> None:
        self._size, self._began_s, self._steps, self._tokens = size, now_s, 0, 0

    def _judge(self, crowd: _Crowd, speakers: int, rate: float, now_s: float) -> None:
        """Take the rate of a window."""
        if not crowd.rates:
            crowd.trial = self._neighbour(crowd, speakers) if now_s >= crowd.again_s else 0
            if crowd.trial:
                crowd.rates.append(rate)
            return
        crowd.rates.append(rate)
        if len(crowd.rates) < 3:
            return
        before, tried, after = crowd.rates
        crowd.rates.clear()
        if tried > BETTER * max(before, after):
            crowd.usual, crowd.wait_s = crowd.trial, AGAIN_S_MIN
        else:
            crowd.is_up = not crowd.is_up
            crowd.wait_s = min(AGAIN_S_MAX, 2 * crowd.wait_s)
        crowd.again_s = now_s + crowd.wait_s

    def _neighbour(self, crowd: _Crowd, speakers: int) -> int:
        """Return what to try, first in the direction that was better; 0 if there is nothing."""
        most = min(self._most, speakers)
        ways = (1, -1) if crowd.is_up else (-1, 1)
        return next((n for way in ways if 1 <= (n := crowd.usual + way) <= most), 0)

    def _crowd(self, speakers: int) -> _Crowd:
        size = _size_of(speakers)
        crowd = self._crowds.get(size)
        if crowd is None:
            first = max(1, min(ceil(speakers / LANE_ROWS), self._most))
            crowd = self._crowds[size] = _Crowd(first)
        return crowd


def _size_of(speakers: int) -> int:
    """Return 0, 1, 2, 3, 4, … for up to 1, 2, 4, 8, 16, … speakers."""
    return max(0, speakers - 1).bit_length()

"""Chooses how many steps of rows are under way at once, with how many threads, by trial.

Pure. With several steps, nodes compute at the same time, each with fewer rows; with one, each
row waits for nobody and weights are read once. Nodes of one machine share its cores: with
one step under way each may use them all, with several each has its share; and a node that two
steps meet at computes both, as each step has a core wherever it is. On machines of their own
nodes compute what they meet one after the other with all threads, or abreast with some each.
Which is faster depends on cores, hops, kernels and neighbours, so it is tried: for each size
of crowd, between windows of the usual mode one window of another.

    usual | other | usual     the other must beat both by a margin

Trials cost what the other mode is slower. So one that falls far behind ends early, one that is
not ahead needs no third window, whatever interrupts one puts it off, and between two of them
lie several windows of the usual mode, which is work and not time that passes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import ceil

LANE_ROWS = 4  # the first guess: narrow products take four rows in about the time of one
WINDOW_S, WINDOW_STEPS = 0.4, 12  # a window lasts until both have passed
SETTLE_STEPS = 4  # after a change: steps of before are still under way
BETTER = 1.04  # repeated windows of one mode differ by 2 % on a quiet machine
HOPELESS = 0.85  # of the usual rate, in the first half of a window
PAUSE_MIN, PAUSE_MAX = 6, 150  # windows before a trial; doubled whenever one changes nothing


@dataclass(frozen=True, slots=True)
class Mode:
    """So many steps under way; each node computes with its threads divided by `share`.

    A node computes up to `abreast` of them at once.
    """

    lanes: int
    share: int = 1
    abreast: int = 1


@dataclass(slots=True)
class _Crowd:
    """What is known of one size of crowd; `rates` are those of the windows of a trial."""

    usual: Mode
    rates: list[float] = field(default_factory=list)
    trial: Mode | None = None
    turn: int = 0
    pause: int = PAUSE_MIN
    left: int = PAUSE_MIN  # of it


class Lanes:
    """The modes of one way round.

    Args:
        most: the nodes of the way; more steps than that only wait for each other.
        sharing: how many of them are on one machine.
        threads: that each may compute with.
    """

    def __init__(self, most: int, sharing: int = 1, threads: int = 1) -> None:
        assert most > 0
        assert sharing > 0
        self._most, self._together, self._threads = most, sharing > 1, threads
        self.sharing = sharing if threads > 1 else 1  # of the threads of each
        self._crowds: dict[int, _Crowd] = {}
        self._size = 0  # of the crowd that the window counts
        self._began_s = 0.0
        self._steps = self._tokens = 0

    def mode(self, speakers: int) -> Mode:
        """Return how steps are made now."""
        crowd = self._crowd(speakers)
        # In a trial the second window is the other's.
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
            self._interrupt()
            self._begin(size, now_s)
            return
        self._steps += 1
        if self._steps == SETTLE_STEPS:
            self._began_s, self._tokens = now_s, 0
        elif self._steps > SETTLE_STEPS:
            self._tokens += tokens
        took_s = now_s - self._began_s
        crowd, steps = self._crowd(speakers), self._steps - SETTLE_STEPS
        is_over = steps >= WINDOW_STEPS and took_s >= WINDOW_S
        if is_over or self._is_hopeless(crowd, steps, took_s):
            self._judge(crowd, speakers, self._tokens / took_s)
            self._begin(size, now_s)

    def usual(self) -> dict[int, dict[str, int]]:
        """Return the mode chosen, by the largest crowd of each size."""
        return {1 << size: asdict(crowd.usual) for size, crowd in sorted(self._crowds.items())}

    def _begin(self, size: int, now_s: float) -> None:
        self._size, self._began_s, self._steps, self._tokens = size, now_s, 0, 0

    def _interrupt(self) -> None:
        """Put a trial off that was begun."""
        crowd = self._crowds.get(self._size)
        if crowd is not None and crowd.rates:
            crowd.rates.clear()
            crowd.left = crowd.pause

    def _is_hopeless(self, crowd: _Crowd, steps: int, took_s: float) -> bool:
        if len(crowd.rates) != 1 or 2 * steps < WINDOW_STEPS or 2 * took_s < WINDOW_S:
            return False
        return self._tokens / took_s < HOPELESS * crowd.rates[0]

    def _judge(self, crowd: _Crowd, speakers: int, rate: float) -> None:
        """Take the rate of a window."""
        if not crowd.rates:
            crowd.left -= 1
            crowd.trial = None if crowd.left > 0 else self._other(crowd, speakers)
            if crowd.trial:
                crowd.rates.append(rate)
            return
        crowd.rates.append(rate)
        before, tried, *after = crowd.rates
        is_ahead = tried > BETTER * max([before, *after])
        if is_ahead and not after:
            return
        crowd.rates.clear()
        assert crowd.trial is not None
        if is_ahead:
            crowd.usual, crowd.pause = crowd.trial, PAUSE_MIN
        elif crowd.turn % len(self._modes(speakers)) == 0:  # all others were tried, in vain
            crowd.pause = min(PAUSE_MAX, 2 * crowd.pause)
        crowd.left = crowd.pause

    def _other(self, crowd: _Crowd, speakers: int) -> Mode | None:
        """Return what to try, each in its turn; None if there is nothing."""
        modes = self._modes(speakers)
        for _ in modes:
            crowd.turn += 1
            found = modes[crowd.turn % len(modes)]
            if found != crowd.usual:
                return found
        return None

    def _modes(self, speakers: int) -> list[Mode]:
        most = max(1, min(self._most, speakers))
        found = [self._plain(lanes) for lanes in range(1, most + 1)]
        if not self._together and self._threads > 1:
            found += [Mode(lanes, lanes, lanes) for lanes in range(2, most + 1)]
        if self.sharing > 1:
            found.append(Mode(1, self.sharing))  # where others want the cores, waiting costs more
        return found

    def _crowd(self, speakers: int) -> _Crowd:
        size = _size_of(speakers)
        crowd = self._crowds.get(size)
        if crowd is None:
            lanes = ceil(speakers / LANE_ROWS)
            crowd = self._crowds[size] = _Crowd(self._plain(max(1, min(lanes, self._most))))
        return crowd

    def _plain(self, lanes: int) -> Mode:
        return Mode(lanes, min(lanes, self.sharing), lanes if self._together else 1)


def _size_of(speakers: int) -> int:
    """Return 0, 1, 2, 3, 4, … for up to 1, 2, 4, 8, 16, … speakers."""
    return max(0, speakers - 1).bit_length()

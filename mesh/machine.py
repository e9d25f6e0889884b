"""The one shape of everything that decides over time.

Pure. A machine is told facts and the time, and returns what must be done; it
never reads a clock, draws global chance, logs, or touches the world.
`mesh.driver.drive` runs any machine; hot paths may call one directly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: settle everything that is due."""


TICK = Tick()

Event = TypeVar("Event", contravariant=True)
Action = TypeVar("Action", covariant=True)


class Machine(Protocol[Event, Action]):
    """Events in, actions out, one alarm."""

    def handle(self, event: Event | Tick, now_s: float) -> Iterable[Action]:
        """Take one event at `now_s` and return what must be done, in order.

        A `TICK` settles everything due: afterwards `wakeup_s()` is None or later
        than `now_s`.
        """

    def wakeup_s(self) -> float | None:
        """Return when `handle(TICK, …)` is due, or None while nothing waits."""

    def check(self) -> None:
        """Assert every invariant. Tests call this after each event."""

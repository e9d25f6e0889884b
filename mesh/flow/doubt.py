"""While something waits for a node: what to do when that node is suspected or gone.

Shell: the router watches membership and calls `raise_at`; whoever waits says beforehand
what it will do then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType

from mesh.flow.directory import Endpoint

# A node in doubt that still answers loses no stream: so long the next piece is waited for.
PATIENCE_S = 0.5
Action = Callable[[], None]


class Doubts:
    """Who waits for which address.

    Attributes:
        now: addresses in doubt.
    """

    __slots__ = ("_waiting", "now")

    def __init__(self) -> None:
        self._waiting: dict[str, set[Action]] = {}
        self.now: frozenset[str] = frozenset()

    def raise_at(self, addresses: Iterable[str]) -> None:
        """Let those act who wait for one of these; the others are no longer in doubt."""
        self.now = frozenset(addresses)
        for address in self.now:
            for action in tuple(self._waiting.get(address, ())):
                action()

    def watch(self, endpoint: Endpoint, action: Action) -> Watch:
        """Return a block in which `action` follows when the node is in doubt; itself never is."""
        return Watch(self, "" if endpoint.is_self else endpoint.address, action)

    def watch_late(self, endpoint: Endpoint, action: Action) -> LateWatch:
        """Return a block as `watch`, that is given `PATIENCE_S` to end by itself."""
        return LateWatch(self, "" if endpoint.is_self else endpoint.address, action)


class Watch:
    """A block that waits for one node."""

    __slots__ = ("_action", "_address", "_doubts")

    def __init__(self, doubts: Doubts, address: str, action: Action) -> None:
        self._doubts = doubts
        self._address = address
        self._action = action

    def __enter__(self) -> None:
        if self._address:
            self._doubts._waiting.setdefault(self._address, set()).add(self._action)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._address:
            waiting = self._doubts._waiting[self._address]
            waiting.discard(self._action)
            if not waiting:
                del self._doubts._waiting[self._address]


class LateWatch(Watch):
    """A block that waits for one node, and a little longer when that is in doubt."""

    __slots__ = ("_late", "_timer")

    def __init__(self, doubts: Doubts, address: str, action: Action) -> None:
        super().__init__(doubts, address, self._start)
        self._late = action
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        super().__enter__()
        if self._address in self._doubts.now:
            self._start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if self._timer is not None:
            self._timer.cancel()

    def _start(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._late)

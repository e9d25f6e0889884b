"""The door of a node: how many requests are in, until when each may take, and when to refuse.

Shell: every HTTP door admits a request before it goes into `flow.pipeline`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any

from mesh.errors import Draining, Overloaded
from mesh.policy.deadline import deadline_s
from mesh.policy.request import Priority, Request
from mesh.settings.schema import Limits

RETRY_AFTER_S = 1.0  # a door empties within a second or its node is in deeper trouble


class Admission:
    """Counts requests in flight and refuses those beyond the limit or while draining.

    Args:
        limits: of this node.
        clock: monotonic seconds.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_draining = False
        self.active = 0
        self.total = 0
        self.refused = 0

    def request(
        self,
        id: str,
        *,
        deadline_ms: float | None = None,
        default_s: float = 0.0,
        priority: Priority = Priority.NORMAL,
        traceparent: str = "",
    ) -> Request:
        """Return the request that a door received, with its deadline.

        Args:
            id: the caller's, or one that the door made.
            deadline_ms: what the caller gives, if it says so.
            default_s: the pipeline's own default; 0.0: the node's.
            priority: its class.
            traceparent: W3C trace context to go on with.

        Raises:
            BadRequest: a deadline that is not positive.
        """
        limits = self._limits
        until_s = deadline_s(
            self._clock(), deadline_ms, default_s or limits.deadline_s, limits.deadline_s_max
        )
        return Request(id, until_s, priority, traceparent)

    def admit(self, request: Request) -> Admission:
        """Return the place of a request, to hold with `with` until it is answered.

        Raises:
            Draining: this node is about to leave.
            Overloaded: the limit is reached.
        """
        if self.is_draining:
            self.refused += 1
            raise Draining(
                "this node is leaving; ask another",
                request_id=request.id,
                retry_after_s=RETRY_AFTER_S,
            )
        if self.active >= self._limits.requests_max:
            self.refused += 1
            raise Overloaded(
                f"{self.active} requests are in flight at this node, which is the limit",
                request_id=request.id,
                retry_after_s=RETRY_AFTER_S,
            )
        return self  # places are counted, and nothing need be known of each

    def drain(self) -> None:
        """Refuse whatever is new from now on."""
        self.is_draining = True

    async def wait_idle(self, within_s: float) -> bool:
        """Wait until nothing is in flight; False if that takes longer."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def statistics(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "active_requests": self.active,
            "total_requests": self.total,
            "refused_requests": self.refused,
            "draining": self.is_draining,
        }

    def __enter__(self) -> None:
        self.active += 1
        self.total += 1
        self._idle.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.active -= 1
        if not self.active:
            self._idle.set()

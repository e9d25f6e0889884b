"""The door of a node: how many requests are in, and when to refuse one.

Shell: every HTTP door admits a request before it goes into `flow.pipeline`.
"""

from __future__ import annotations

from typing import Any

from mesh.errors import Draining, Overloaded
from mesh.flow.serving import Serving
from mesh.policy.request import Request
from mesh.settings.schema import Limits

RETRY_AFTER_S = 1.0  # a door empties within a second or its node is in deeper trouble


class Admission(Serving):
    """Counts requests in flight and refuses those beyond the limit or while draining.

    Args:
        limits: of this node.

    Attributes:
        refused_connections: counted by the doors, which have no place for them.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits
        self.is_draining = False
        self.total = 0
        self.refused = self.refused_connections = 0

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

    def statistics(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "active_requests": self.active,
            "total_requests": self.total,
            "refused_requests": self.refused,
            "refused_connections": self.refused_connections,
            "draining": self.is_draining,
        }

    def __enter__(self) -> None:
        super().__enter__()
        self.total += 1

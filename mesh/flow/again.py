"""Says of a call that failed whether it is made again, and waits until it may be.

Shell: `policy.attempts` and `policy.budget` decide; the chooser knows who is left to ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from random import Random

from mesh.errors import AttemptsSpent, CapacityError, MeshError, PeerError
from mesh.flow.choose import Chooser
from mesh.flow.directory import Directory, Endpoint
from mesh.policy import attempts, budget
from mesh.policy.attempts import Tried
from mesh.policy.budget import Budgets
from mesh.policy.request import Request
from mesh.roles import custom
from mesh.settings.topology import Role


class Again:
    """What follows a failed attempt.

    Args:
        chooser: knows who may be asked.
        directory: who serves what.
        rng: draws waits.
        clock: monotonic seconds.

    Attributes:
        retries: budgets of the calls that were refused.
        failovers: calls made again because their node was lost.
    """

    def __init__(
        self, chooser: Chooser, directory: Directory, rng: Random, clock: Callable[[], float]
    ) -> None:
        self._chooser = chooser
        self._directory = directory
        self._rng = rng
        self._clock = clock
        self.retries = Budgets(budget.RETRY_SHARE, budget.RETRY_FLOOR_PER_S, clock)
        self.failovers = 0

    async def go_on(
        self,
        error: MeshError,
        role: str,
        spec: Role,
        endpoint: Endpoint,
        request: Request,
        tried: Tried,
        has_streamed: bool = False,
    ) -> None:
        """Return when a node may be asked that is not in `tried`; raise if none is to be."""
        self._tell(error, role, endpoint, request, tried.names)
        is_idempotent, wait_s = custom.is_idempotent(spec.kind), 0.0
        others = self._others(error, role, spec, tried.names)
        is_return = (
            not others
            and error.node == endpoint.name  # what another node lost is for it to ask again
            and attempts.may_return(error, tried, is_idempotent=is_idempotent)
        )
        if is_return:
            others = self._returns(role, endpoint)
            wait_s = attempts.backoff_s(tried.count, self._rng)
        if not attempts.may_retry(
            error,
            attempts=tried.count,
            is_idempotent=is_idempotent,
            has_streamed=has_streamed,
            others=others,
            left_s=request.left_s(self._clock()) - wait_s,
        ):
            raise error
        if isinstance(error, CapacityError):
            self._spend(error, role, request)
            wait_s = attempts.backoff_s(tried.count, self._rng)
        else:
            self.failovers += 1
        if is_return:
            tried.forgive_but(endpoint.name)
        if wait_s:
            await asyncio.sleep(wait_s)

    def _tell(
        self,
        error: MeshError,
        role: str,
        endpoint: Endpoint,
        request: Request,
        tried: Collection[str],
    ) -> None:
        """Complete an error by where it happened, and to whom."""
        if isinstance(error, PeerError) and not error.node:  # else another node has said it
            error.message = f"node {endpoint.name!r} failed: {error.message}"
            if not self._chooser.usable(role, tried):
                error.message += f"; no other node can serve role {role!r} now"
        error.role = error.role or role
        error.node = error.node or endpoint.name
        error.request_id = error.request_id or request.id

    def _others(self, error: MeshError, role: str, spec: Role, tried: Collection[str]) -> int:
        """Return how many nodes may be asked that were not; one may soon be, or will lead."""
        others = len(self._chooser.usable(role, tried))
        if others or not isinstance(error, PeerError):
            return others
        is_led = spec.layers is not None and self._directory.is_coming(role, tried)
        return is_led or self._chooser.is_due(role, tried)

    def _returns(self, role: str, failed: Endpoint) -> int:
        """Return how many nodes may be asked again, now or soon: all but the one that failed."""
        names = (failed.name,)
        return len(self._chooser.usable(role, names)) or self._chooser.is_due(role, names)

    def _spend(self, error: CapacityError, role: str, request: Request) -> None:
        if not self.retries.of(role).try_spend(self._clock()):
            raise AttemptsSpent(
                f"{error.message}; no other node was asked, as too many calls were refused lately",
                node=error.node,
                role=role,
                request_id=request.id,
                retry_after_s=error.retry_after_s or 1.0,
            ) from error

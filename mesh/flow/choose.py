"""Chooses the node of a call among those that serve its role, and waits a moment for one.

Shell: reads directory and clock; `policy.edge` says who is fit, `policy.balance`
and `mesh.ring` who gets the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from math import inf
from random import Random
from typing import Any

from mesh.errors import BreakerOpen, MeshError, NoOwner
from mesh.flow.directory import Directory, Endpoint
from mesh.flow.doubt import Doubts
from mesh.flow.reach import Reach
from mesh.policy import balance, conversation, deadline
from mesh.policy.edge import fit
from mesh.policy.request import Request
from mesh.ring import bounded
from mesh.settings.topology import Role
from mesh.wire.messages import Fields

OWNER_WAIT_S = 1.5  # a role's only node restarts, or gossip is a moment behind: worth a short wait
LOADING_WAIT_S = 20.0  # a node that is back reads its models: small ones take it less than this
UNKNOWN_S = 0.01  # a call before any was measured: then only their number counts
PROBE_LOOK_S = 0.05  # how often who waits for an open breaker looks at it


class Chooser:
    """Who is asked next.

    Args:
        directory: who serves what.
        reach: knows how calls to each went.
        rng: draws between equals.
        doubts: knows which addresses do not answer this very node.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        directory: Directory,
        reach: Reach,
        rng: Random,
        doubts: Doubts,
        clock: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._reach = reach
        self._rng = rng
        self._doubts = doubts
        self._clock = clock
        self._turns: dict[str, int] = {}

    def lone(self, role: str) -> Endpoint | None:
        """Return the node that serves a role if it is the only one, and fit."""
        endpoints = self._directory.endpoints(role)
        if len(endpoints) != 1:
            return None
        breaker = self._reach.edge(role, endpoints[0].address).breaker
        return endpoints[0] if breaker.allows(self._clock()) else None

    def usable(self, role: str, tried: Collection[str]) -> list[Endpoint]:
        """Return the nodes not yet tried that are fit; suspects only where there is no other."""
        endpoints = self._directory.endpoints(role)
        if len(endpoints) == 1 and not tried:  # nothing to compare: the way of most requests
            breaker = self._reach.edge(role, endpoints[0].address).breaker
            return list(endpoints) if breaker.allows(self._clock()) else []
        left = [e for e in endpoints if e.name not in tried] if tried else list(endpoints)
        if not left:
            return left
        edges = [self._reach.edge(role, endpoint.address) for endpoint in left]
        fits = [left[index] for index in fit(edges, self._clock())]
        doubtful = self._doubts.now
        return [e for e in fits if not e.suspect and e.address not in doubtful] or fits

    async def wait_usable(
        self, role: str, request: Request, tried: Collection[str]
    ) -> list[Endpoint]:
        """Wait until some node serves the role, or a breaker lets a call try.

        A moment, or for as long as models take to load where a node is about to serve it.
        """
        began_s = self._clock()
        usable: list[Endpoint] = []
        while not usable:
            wait_s = LOADING_WAIT_S if self._directory.is_coming(role, tried) else OWNER_WAIT_S
            until_s = min(request.deadline_s, began_s + wait_s)
            if self._clock() >= until_s:
                raise self._nobody(role, request)
            try:
                async with asyncio.timeout_at(min(until_s, self._try_at_s(role, tried, until_s))):
                    await self._directory.wait_change(self._directory.version)
            except TimeoutError:
                pass  # looked at above: a breaker may be due, or the wait is over
            usable = self.usable(role, tried)
        return usable

    def _try_at_s(self, role: str, tried: Collection[str], until_s: float) -> float:
        """Return when the first breaker lets a call try; a probe under way is looked at again."""
        now_s = self._clock()
        found = [
            max(self._reach.edge(role, e.address).breaker.try_at_s(now_s), now_s + PROBE_LOOK_S)
            for e in self._directory.endpoints(role)
            if e.name not in tried
        ]
        return min(found, default=until_s)

    def _nobody(self, role: str, request: Request) -> MeshError:
        if self._clock() >= request.deadline_s:
            return deadline.exceeded(f"while no node served role {role!r}")
        where = {"role": role, "request_id": request.id}
        if self._directory.endpoints(role):
            what = f"every node of role {role!r} failed lately and is left alone for a moment"
            return BreakerOpen(what, retry_after_s=1.0, **where)
        what = f"no node serves role {role!r} now; {self._directory.explain(role)}"
        return NoOwner(what, retry_after_s=1.0, **where)

    def is_due(self, role: str, tried: Collection[str]) -> bool:
        """Whether a node that is left alone may be tried soon: it may be back, and is known so."""
        return self._try_at_s(role, tried, inf) <= self._clock() + OWNER_WAIT_S

    def choose(
        self, role: str, spec: Role, fields: Fields, request: Request, usable: list[Endpoint]
    ) -> Endpoint:
        """Return one of the usable nodes, by the role's route."""
        if len(usable) == 1:
            return usable[0]
        if (key := ring_key(spec, fields, request)) is not None:
            return self._owner(role, key, usable)
        if spec.route == "round-robin":
            turn = self._turns[role] = self._turns.get(role, -1) + 1
            return usable[turn % len(usable)]
        if spec.route == "random":
            return usable[balance.weighted([e.weight for e in usable], self._rng)]
        now_s = self._clock()
        views = [self._reach.edge(role, endpoint.address).view for endpoint in usable]
        unknown_s = max(view.call_s for view in views) or UNKNOWN_S
        finish_s = [
            view.finish_s(now_s, endpoint.weight, unknown_s)
            for view, endpoint in zip(views, usable, strict=True)
        ]
        return usable[balance.least_loaded(finish_s, self._rng)]

    def _owner(self, role: str, key: bytes, usable: list[Endpoint]) -> Endpoint:
        by_name = {endpoint.name: endpoint for endpoint in usable}
        everyone = self._directory.ring(role).owners(key, len(self._directory.endpoints(role)))
        owners = tuple(name for name in everyone if name in by_name)
        in_flight = {
            name: self._reach.edge(role, by_name[name].address).view.in_flight for name in owners
        }
        weights = {name: by_name[name].weight for name in owners}
        return by_name[bounded.choose(owners, in_flight, weights=weights)]


def ring_key(spec: Role, fields: Fields, request: Request) -> bytes | None:
    """Return what the ring is asked with; None where the load decides, or the order."""
    if spec.route == "ring":
        return key_of(spec, fields, request)
    if spec.route == "prefix" or (spec.route == "auto" and spec.kind == "generate"):
        return conversation.key_of(fields)
    return None


def version_key(spec: Role, fields: Fields, request: Request) -> bytes:
    """Return what decides the version: the field named, or what the ring is asked with, or the id.

    All turns of a conversation meet one version: another model's keys and values are no use.
    """
    found = None if spec.key else ring_key(spec, fields, request)
    return key_of(spec, fields, request) if found is None else found


def key_of(spec: Role, fields: Fields, request: Request) -> bytes:
    """Return what a call is hashed by, the same on every node: a field's value, or its id."""
    if not spec.key:
        return request.id.encode()
    value: Any = fields.get(spec.key)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    if hasattr(value, "tobytes"):
        return bytes(value.tobytes())
    return repr(value).encode()

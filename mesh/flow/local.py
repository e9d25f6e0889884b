"""The roles of this node: loads them, checks what comes, and runs it.

Shell: `node` says which roles, and is told when one becomes ready; the router
calls them directly, and peers through `handle`. Roles load one after another in
the background, in the order of the topology.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol
from weakref import WeakSet

from mesh.errors import MeshError, NoOwner, RoleError, SetupError
from mesh.flow.answers import Cached
from mesh.flow.batcher import Batcher, Started, Tell
from mesh.flow.deadlines import Deadlines
from mesh.flow.hop import request_of
from mesh.flow.lane import Lane, open_lane
from mesh.flow.served import Batched, Served, Streamed
from mesh.flow.stream_lane import StreamLane
from mesh.policy.batch import BatchFormer
from mesh.policy.request import Request
from mesh.roles import custom
from mesh.roles.base import Context, Role, StreamRole
from mesh.settings import topology
from mesh.settings.schema import Compute, Limits
from mesh.wire.messages import Answer, Call, Fields, Piece

log = logging.getLogger(__name__)

LINGER_S = 2.0  # news that a role is gone has reached every door by then (gossip: under 1 s)
SERVICE = "role/"  # prefix of the service that a call to a role names

Ask = Callable[[str, Fields, Request], Awaitable[Fields]]


class Reply(Protocol):
    """What a handler sends pieces with; `net.peers` has it."""

    async def send(self, piece: Piece) -> None:
        """Send a piece, once the caller has room for it."""


@dataclass(frozen=True, slots=True)
class Parting:
    """A role that this node no longer offers; "" is one whose successor has its name."""

    name: str
    served: Served
    since_s: float


class LocalRoles:
    """What this node can do.

    Args:
        node: this node's name.
        data: the folder for what roles write.
        compute: device and threads.
        limits: queue length where a role names none.
        ask: calls another role of the mesh, for roles that do; None: they cannot.
        changed: called on the loop whenever a role becomes ready or goes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        node: str,
        data: Path,
        compute: Compute,
        limits: Limits,
        ask: Ask | None = None,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._node = node
        self._data = data
        self._compute = compute
        self._limits = limits
        self._clock = clock
        self._deadlines = Deadlines()
        self._served: dict[str, Served] = {}
        self._parting: list[Parting] = []
        self._down: WeakSet[Role] = WeakSet()  # whose process died and is started anew
        self.ask = ask
        self.links: Callable[[str], Any] | None = None  # for roles whose layers are split
        self.changed = changed
        self.loading: tuple[str, ...] = ()
        self.failed: dict[str, str] = {}
        self._load_failures: Counter[str] = Counter()

    @property
    def ready(self) -> tuple[str, ...]:
        """Names of the roles that answer."""
        return tuple(n for n, served in self._served.items() if served.role not in self._down)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the roles that are this node's, also while a process of theirs starts anew."""
        return tuple(self._served)

    async def load(
        self, roles: Mapping[str, topology.Role], models: Mapping[str, topology.Model]
    ) -> None:
        """Load roles until each is ready or in `failed`; they answer as soon as they are.

        One at a time: two models that are read at once are both late.
        """
        waiting = [name for name in roles if name not in self._served]
        for name in waiting:
            self.failed.pop(name, None)
        while waiting:
            self.loading = tuple(waiting)
            name = waiting.pop(0)
            await self._load_one(name, roles[name], models)
            self.loading = tuple(waiting)
            self.changed()

    async def replace(
        self, name: str, spec: topology.Role, models: Mapping[str, topology.Model]
    ) -> bool:
        """Load a role anew beside itself; the old one answers until the new one can.

        Returns:
            False if the new one could not be loaded: the old one stays.
        """
        old = self._served[name]
        self.failed.pop(name, None)
        await self._load_one(name, spec, models)
        if self._served[name] is old:
            return False
        self._parting.append(Parting("", old, self._clock()))  # nobody can call it any more
        return True

    async def unload(self, name: str) -> None:
        """Stop one role; what waits for it is refused, so drain first."""
        served = self._served.pop(name, None)
        if served is not None:
            self.changed()
            await served.aclose()

    def retire(self, name: str) -> None:
        """Take a role out of `ready`; whoever has not heard of it yet is still answered."""
        self._parting.append(Parting(name, self._served.pop(name), self._clock()))
        self.changed()

    def recall(self, name: str) -> bool:
        """Serve a retired role again; return whether it was still here."""
        parting = next((one for one in self._parting if one.name == name), None)
        if parting is None or name in self._served:
            return False
        self._parting.remove(parting)
        self._served[name] = parting.served
        self.changed()
        return True

    async def sweep(self, finish_s: float) -> None:
        """Close the retired roles that have nothing left to do.

        Args:
            finish_s: what takes longer than this is cut off.
        """
        for one in self._parting[:]:
            waited_s = self._clock() - one.since_s
            if waited_s >= finish_s or (waited_s >= LINGER_S and not one.served.in_flight):
                self._parting.remove(one)
                await one.served.aclose()
                if one.name:
                    log.info("role.dropped", extra={"role": one.name})

    def used_s(self, name: str, streams: int) -> float:
        """Return for how long a role here was fully used in all."""
        return self._served[name].used_s(streams)

    def add(self, name: str, role: Role, spec: topology.Role, lane: Lane | None = None) -> None:
        """Serve a role that is loaded already."""
        lane = lane or open_lane(spec.lane, role)
        served: Served
        if isinstance(role, StreamRole):
            in_flight_max = spec.queue_max or self._limits.queue_max
            served = Streamed(role, lane, in_flight_max, self._clock)
        else:
            served = Batched(role, self._batcher(role, spec, lane))
        if spec.cache.items_max:
            served = Cached(served, spec.cache, self._clock)
        self._served[name] = served

    def call(self, role: str, fields: Fields, request: Request) -> Awaitable[Answer]:
        """Answer one item; to be awaited, and no coroutine more than the role's own.

        Raises:
            MeshError: `NoOwner` if the role is not ready here; `Unprocessable` for a
                wrong item; what the role raised.
        """
        return self._find(role).call(fields, request)

    def start(self, role: str, fields: Fields, request: Request, tell: Tell) -> Started | None:
        """Begin to answer one item, and tell the answer; None if only `call` can.

        Raises:
            MeshError: as `call`, before anything began; nothing will be told.
        """
        return self._find(role).start(fields, request, tell)

    def begin(self, call: Call, tell: Tell) -> Started | None:
        """Begin to answer a peer, without a task; None if only `handle` can."""
        role = call.to.removeprefix(SERVICE)
        return self.start(role, call.fields, request_of(call, self._clock()), tell)

    def stream(
        self, role: str, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Answer one item piece by piece; a role that cannot gives one `Answer`."""
        return self._find(role).stream(fields, request)

    async def handle(self, call: Call, reply: Reply) -> Answer:
        """Answer a peer: the handler of services `role/…`."""
        request = request_of(call, self._clock())
        role = call.to.removeprefix(SERVICE)
        if not call.wants_pieces:
            return await self.call(role, call.fields, request)
        async with aclosing(self.stream(role, call.fields, request)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    return part
                await reply.send(part)
        raise RoleError(f"role {role!r} ended its stream without an answer", role=role)

    def is_idempotent(self, role: str) -> bool:
        """Whether an item of this role may be run twice; True for roles that are not here."""
        served = self._served.get(role)
        return served is None or served.role.idempotent

    def waiting_s(self) -> float:
        """Return the longest estimated wait of any role, seconds; gossip tells it."""
        return max((served.waiting_s() for served in self._served.values()), default=0.0)

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return figures per role; roles that load or failed say so."""
        found: dict[str, dict[str, Any]] = {
            name: {
                "state": "restarting" if served.role in self._down else "ready",
                **served.statistics(),
            }
            for name, served in self._served.items()
        }
        found.update({name: {"state": "loading"} for name in self.loading})
        for name, why in self.failed.items():  # what answered before may still do
            found[name] = {**found.get(name, {}), "state": "failed", "why": why}
        for name, count in self._load_failures.items():
            found.setdefault(name, {})["load_failures"] = count
        return found

    async def aclose(self) -> None:
        """Stop every role."""
        served, self._served = list(self._served.values()), {}
        parting, self._parting = [one.served for one in self._parting], []
        for one in served + parting:
            await one.aclose()

    def _find(self, role: str) -> Served:
        served = self._served.get(role)
        if served is not None:
            return served
        for parting in self._parting:
            if parting.name == role:
                return parting.served
        why = "is still loading" if role in self.loading else "is not served"
        why = f"could not be loaded ({self.failed[role]})" if role in self.failed else why
        raise NoOwner(f"role {role!r} {why} on node {self._node!r}", node=self._node, role=role)

    async def _load_one(
        self, name: str, spec: topology.Role, models: Mapping[str, topology.Model]
    ) -> None:
        began_s = self._clock()
        lane: Lane | None = None
        try:
            role = self._build(name, spec, models)
            if spec.lane == "process" and isinstance(role, StreamRole):
                lane = apart = StreamLane(role, self._moved)
                role = apart.role
            else:
                lane = open_lane(spec.lane, role)
            await lane.load()
            self.add(name, role, spec, lane)
        except BaseException as error:
            if lane is not None:
                await lane.aclose()
            if not isinstance(error, Exception):
                raise
            # Foreign code at its border: a role that cannot load must not stop the others.
            self.failed[name] = str(error) or type(error).__name__
            self._load_failures[name] += 1
            known = isinstance(error, MeshError)
            log.error(
                "role.load_failed",
                extra={"role": name, "why": self.failed[name]},
                exc_info=None if known else error,
            )
            return
        log.info("role.loaded", extra={"role": name, "took_s": round(self._clock() - began_s, 3)})

    def _moved(self, role: Role, is_up: bool) -> None:
        """Tell that a role's process has died, or that another answers in its place."""
        (self._down.discard if is_up else self._down.add)(role)
        self.changed()

    def _build(self, name: str, spec: topology.Role, models: Mapping[str, topology.Model]) -> Role:
        kind = custom.find(spec.kind)
        if spec.model and spec.model not in models:
            raise SetupError(f"roles.{name}.model: {spec.model!r} is not in [models]")
        if spec.layers is not None and spec.lane != "thread":
            raise SetupError(f"roles.{name}.lane: expected 'thread' with layers, not {spec.lane!r}")
        return kind(
            Context(
                role=name,
                options=custom.options(name, kind, spec.options),
                model=models[spec.model].source if spec.model else "",
                data=self._data,
                device=_device(self._compute.device),
                threads=self._compute.threads,
                call=self._ask,
                links=self.links(name) if self.links and spec.layers is not None else None,
            )
        )

    def _batcher(self, role: Role, spec: topology.Role, lane: Lane) -> Batcher:
        former: BatchFormer[Any] = BatchFormer(
            items_max=spec.batch.items_max,
            cost_max=spec.batch.cost_max,
            wait_s=spec.batch.wait_ms / 1000.0,
            queue_max=spec.queue_max or self._limits.queue_max,
        )
        return Batcher(role, lane, former, self._deadlines, clock=self._clock)

    async def _ask(self, role: str, fields: Fields, request: Request) -> Fields:
        if self.ask is None:
            raise NoOwner("this node cannot ask other roles", node=self._node, role=role)
        return await self.ask(role, fields, request)


def _device(wanted: str) -> str:
    """Return "cpu" or "cuda"; asking torch would load it into nodes that do not need it."""
    if wanted != "auto":
        return wanted
    return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"

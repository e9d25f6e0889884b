"""The roles of this node: loads them, checks what comes, and runs it.

Shell: `node` says which roles, and is told when one becomes ready; the router
calls them directly, and peers through `handle`. Roles load one after another in
the background, smallest files first being the topology's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from mesh.errors import MeshError, NoOwner, Overloaded, RoleError, SetupError
from mesh.flow.batcher import Batcher, percentiles
from mesh.flow.deadlines import Deadlines
from mesh.flow.fields import Shape
from mesh.flow.lane import Lane, open_lane
from mesh.policy.batch import BatchFormer
from mesh.policy.deadline import exceeded
from mesh.policy.request import Priority, Request
from mesh.roles import custom
from mesh.roles.base import Context, Role, StreamRole, Whole
from mesh.settings import topology
from mesh.settings.schema import Compute, Limits
from mesh.wire.messages import Answer, Call, Fields, Piece, Timing

log = logging.getLogger(__name__)

SERVICE = "role/"  # prefix of the service that a call to a role names

Ask = Callable[[str, Fields, Request], Awaitable[Fields]]


class Reply(Protocol):
    """What a handler sends pieces with; `net.peers` has it."""

    async def send(self, piece: Piece) -> None:
        """Send a piece, once the caller has room for it."""


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
        self._served: dict[str, Batched | Streamed] = {}
        self.ask = ask
        self.changed = changed
        self.loading: tuple[str, ...] = ()
        self.failed: dict[str, str] = {}

    @property
    def ready(self) -> tuple[str, ...]:
        """Names of the roles that answer."""
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

    async def unload(self, name: str) -> None:
        """Stop one role; what waits for it is refused, so drain first."""
        served = self._served.pop(name, None)
        if served is not None:
            self.changed()
            await served.aclose()

    def add(self, name: str, role: Role, spec: topology.Role, lane: Lane | None = None) -> None:
        """Serve a role that is loaded already."""
        if isinstance(role, StreamRole):
            limit = spec.queue_max or self._limits.queue_max
            self._served[name] = Streamed(
                role, lane or open_lane(spec.lane, role), limit, self._clock
            )
            return
        former: BatchFormer[Any] = BatchFormer(
            items_max=spec.batch.items_max,
            cost_max=spec.batch.cost_max,
            wait_s=spec.batch.wait_ms / 1000.0,
            queue_max=spec.queue_max or self._limits.queue_max,
        )
        lane = lane or open_lane(spec.lane, role)
        batcher = Batcher(role, lane, former, self._deadlines, clock=self._clock)
        self._served[name] = Batched(role, batcher)

    async def call(self, role: str, fields: Fields, request: Request) -> Answer:
        """Answer one item.

        Raises:
            MeshError: `NoOwner` if the role is not ready here; `Unprocessable` for a
                wrong item; what the role raised.
        """
        return await self._find(role).call(fields, request)

    def stream(
        self, role: str, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Answer one item piece by piece; a role that cannot gives one `Answer`."""
        return self._find(role).stream(fields, request)

    async def handle(self, call: Call, reply: Reply) -> Answer:
        """Answer a peer: the handler of services `role/…`."""
        request = Request(
            id=call.request_id,
            deadline_s=self._clock() + call.deadline_ms / 1000.0,
            priority=Priority(min(max(call.priority, Priority.CRITICAL), Priority.BATCH)),
            traceparent=call.traceparent,
            attempt=call.attempt,
        )
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
            name: {"state": "ready", **served.statistics()} for name, served in self._served.items()
        }
        found.update({name: {"state": "loading"} for name in self.loading})
        found.update({name: {"state": "failed", "why": why} for name, why in self.failed.items()})
        return found

    async def aclose(self) -> None:
        """Stop every role."""
        served, self._served = list(self._served.values()), {}
        for one in served:
            await one.aclose()

    def _find(self, role: str) -> Batched | Streamed:
        served = self._served.get(role)
        if served is not None:
            return served
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
            known = isinstance(error, MeshError)
            log.error(
                "role.load_failed",
                extra={"role": name, "why": self.failed[name]},
                exc_info=None if known else error,
            )
            return
        log.info("role.loaded", extra={"role": name, "took_s": round(self._clock() - began_s, 3)})

    def _build(self, name: str, spec: topology.Role, models: Mapping[str, topology.Model]) -> Role:
        kind = custom.find(spec.kind)
        if spec.model and spec.model not in models:
            raise SetupError(f"roles.{name}.model: {spec.model!r} is not in [models]")
        return kind(
            Context(
                role=name,
                options=custom.options(name, kind, spec.options),
                model=models[spec.model].source if spec.model else "",
                data=self._data,
                device=_device(self._compute.device),
                threads=self._compute.threads,
                call=self._ask,
            )
        )

    async def _ask(self, role: str, fields: Fields, request: Request) -> Fields:
        if self.ask is None:
            raise NoOwner("this node cannot ask other roles", node=self._node, role=role)
        return await self.ask(role, fields, request)


class Batched:
    """A role that answers batches."""

    def __init__(self, role: Role, batcher: Batcher) -> None:
        self.role = role
        self._batcher = batcher
        self._shape = Shape(role.context.role, role.takes)

    async def call(self, fields: Fields, request: Request) -> Answer:
        """Answer one item in a batch."""
        return await self._batcher.submit(self._shape.check(fields), request)

    async def stream(
        self, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Answer one item, whole."""
        yield await self.call(fields, request)

    def waiting_s(self) -> float:
        """Return the estimated wait, seconds."""
        return self._batcher.waiting_s()

    def statistics(self) -> dict[str, Any]:
        """Return the batcher's figures and the role's own."""
        return self._batcher.statistics() | self.role.statistics()

    async def aclose(self) -> None:
        """Stop."""
        await self._batcher.aclose()


class Streamed:
    """A role that forms its own batches and answers piece by piece."""

    def __init__(
        self, role: StreamRole, lane: Lane, in_flight_max: int, clock: Callable[[], float]
    ) -> None:
        self.role = role
        self._lane = lane
        self._shape = Shape(role.context.role, role.takes)
        self._in_flight = 0
        self._in_flight_max = in_flight_max
        self._clock = clock
        self._total = 0
        self._whole_ms: list[float] = []

    async def call(self, fields: Fields, request: Request) -> Answer:
        """Answer one item, whole."""
        async with aclosing(self.stream(fields, request)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    return part
        raise self._endless()

    async def stream(
        self, fields: Fields, request: Request
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Answer one item piece by piece."""
        item = self._shape.check(fields)
        if self._in_flight >= self._in_flight_max:
            raise Overloaded(
                f"role {self.role.context.role!r} has {self._in_flight} items in flight, the limit",
                role=self.role.context.role,
                retry_after_s=max(1.0, self.waiting_s()),
            )
        self._in_flight += 1
        self._total += 1
        parts = self.role.stream(item, request)
        try:
            while True:
                part = await self._next(parts, request)
                if isinstance(part, Whole):
                    yield self._answer(part)
                    return
                yield Piece(part.fields)
        finally:
            self._in_flight -= 1
            close = getattr(parts, "aclose", None)  # generators have it, other iterators need not
            if close is not None:
                await close()

    def waiting_s(self) -> float:
        """Return a rough wait: items in flight share the engine, so each slows the others."""
        if not self._whole_ms:
            return 0.0
        return self._in_flight * sum(self._whole_ms) / len(self._whole_ms) / 1000.0

    def statistics(self) -> dict[str, Any]:
        """Return figures of the streams and the role's own."""
        return {
            "running": self._in_flight,
            "total_items": self._total,
            "ran_ms": percentiles(self._whole_ms),
        } | self.role.statistics()

    async def aclose(self) -> None:
        """Stop."""
        await self._lane.aclose()

    async def _next(self, parts: AsyncIterator[Any], request: Request) -> Any:
        try:
            async with asyncio.timeout_at(request.deadline_s):
                return await anext(parts)
        except TimeoutError as error:
            raise exceeded("while the answer was being made") from error
        except StopAsyncIteration as error:
            raise self._endless() from error
        except MeshError as error:
            error.role = error.role or self.role.context.role
            raise
        except Exception as error:
            name = self.role.context.role
            log.exception("role.failed", extra={"role": name})
            what = f"role {name!r} failed: {type(error).__name__}: {error}"
            raise RoleError(what, role=name) from error

    def _answer(self, whole: Whole) -> Answer:
        self._whole_ms.append(whole.ran_ms)
        del self._whole_ms[:-SAMPLES_MAX]
        timing = Timing(whole.queued_ms, whole.ran_ms, whole.batch_size)
        return Answer(whole.fields, timing, self.waiting_s())

    def _endless(self) -> RoleError:
        name = self.role.context.role
        return RoleError(f"role {name!r} ended its stream without an answer", role=name)


SAMPLES_MAX = 256  # recent streams that the mean and percentiles are taken from


def _device(wanted: str) -> str:
    """Return "cpu" or "cuda"; asking torch would load it into nodes that do not need it."""
    if wanted != "auto":
        return wanted
    return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"

"""Keeps a model's layers on nodes: opens the way round, watches it, and opens a better one.

Shell: the head's side, on the event loop. `llm.split` decides who computes what, and
`llm.relay` makes the steps. Every opening has a new epoch.

    plan --> order each stage to load --> open the way --> relay.resume --> watch
     ^                                                                        |
     '-- relay.suspend <-- a stage lost, silent or failing; or a better plan -'
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mesh.errors import ConnectionLost, MeshError, SetupError
from mesh.llm.order import Order, write_order
from mesh.llm.outlet import Outlet
from mesh.llm.relay import Relay, Way
from mesh.llm.split import Costs, Part, Place, plan
from mesh.models.decoder import Layer, Stage
from mesh.wire.messages import Answer, Call, Piece

log = logging.getLogger(__name__)

FOREVER_MS = 365 * 24 * 3_600_000  # streams that last as long as both nodes do
LOAD_S = 300.0  # for a stage to read its layers; large models from slow disks take minutes
SILENT_S_MIN = 2.0  # a step that takes longer than this, and than
SILENT_TIMES = 20.0  # so many usual ones, is looked into
SILENT_S_UNKNOWN = 5.0  # before any step was measured
# Patience with stages that answer a ping but bring nothing: a large model's first prompt is long.
STUCK_S_MIN, STUCK_TIMES = 60.0, 5.0  # the longer of these seconds, and so many limits as above
PING_S = 0.7  # for a stage to say that it is there
AVOID_S = 10.0  # a node that failed is left out so long, if there are others
LOOK_S = 0.1  # how often the oldest step is looked at
BETTER_LOOK_S = 2.0  # how often a better plan is looked for
GATHER_S = 3.0  # for the other nodes to join, before the first opening
RETRY_S = 0.5  # between openings that fail


class Stream(Protocol):
    """A call with pieces; `net.stream.Stream` is one."""

    async def __anext__(self) -> Piece | Answer:
        """Return the next piece, or the answer."""

    async def send(self, piece: Piece) -> None:
        """Send a piece."""

    async def aclose(self) -> None:
        """Cancel it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live node that may take a part; the head is the first."""

    name: str
    address: str
    memory_bytes: int = 0


class Links(Protocol):
    """What a chain needs of its node; `flow.stages` has it."""

    role: str
    loop: asyncio.AbstractEventLoop

    def candidates(self) -> Sequence[Candidate]:
        """Return the live nodes that may take part, this one first."""

    def expected(self) -> int:
        """Return how many nodes the topology names."""

    def stream(self, address: str, call: Call) -> Stream:
        """Open a call with pieces to another node's stages."""

    async def ping(self, address: str, instance: str, within_s: float) -> bool:
        """Return whether the stage is there and answers."""

    def listen(self, instance: str, take: Callable[[object, Any], None]) -> None:
        """Let `take` have what the last stage brings back."""

    def forget(self, instance: str) -> None:
        """Listen no more."""


@dataclass(slots=True)
class State:
    """What is known of the chain; shown in statistics."""

    epoch: int = 0
    parts: tuple[Part, ...] = ()
    told: dict[str, dict[str, Any]] = field(default_factory=dict)  # by node, when it was ready
    recoveries: int = 0
    pause_s: float = 0.0  # the last one
    why: str = ""


class Broken(Exception):
    """The way round is lost; `nodes` are to blame, if it is known."""

    def __init__(self, why: str, *nodes: str) -> None:
        super().__init__(why)
        self.nodes = nodes


class Chain:
    """The way round of one model, as its head keeps it."""

    def __init__(
        self,
        links: Links,
        relay: Relay,
        order: Order,
        layers: int,
        counts: Sequence[int],
        costs: Costs,
        read: Callable[[int, int, dict[int, Layer]], Stage],
        instance: str,
    ) -> None:
        """Know everything that opening needs.

        Args:
            links: of this node.
            relay: makes the steps.
            order: what stages are told; layers and addresses are filled in.
            layers: of the model.
            counts: layers per node, given by hand; empty: by cost.
            costs: of the model's units here.
            read: returns the head's layers; runs in a thread.
            instance: unlike that of any other chain.
        """
        self._links, self._relay, self._order = links, relay, order
        self._layers, self._counts = layers, tuple(counts)
        self._costs, self._read, self.instance = costs, read, instance
        self._own: Stage | None = None
        self._avoid: dict[str, float] = {}
        self._epochs = itertools.count(1)
        self._failed: asyncio.Event = asyncio.Event()
        self._lost_s: float | None = None  # since when steps do not come back
        self.opened = asyncio.Event()
        self.state = State()

    async def run(self) -> None:
        """Keep the way open until cancelled."""
        await self._gather()
        while True:
            try:
                async with AsyncExitStack() as stack:
                    watched = await self._open(stack)
                    if self._lost_s is not None:
                        self.state.pause_s = time.monotonic() - self._lost_s
                        self._lost_s = None
                    self.opened.set()
                    log.info("chain.opened", extra={"role": self._links.role, **self._brief()})
                    await self._watch(watched)
            except (Broken, MeshError) as error:
                if self._lost_s is None:
                    self._lost_s = time.monotonic() - self._relay.waits_s()
                await self._note(error)
            finally:
                self._relay.suspend()
                self._links.forget(self.instance)

    # --- opening -----------------------------------------------------------------------

    async def _gather(self) -> None:
        """Give nodes that start with this one a moment, lest all be cut anew at once."""
        until_s = time.monotonic() + GATHER_S
        while len(self._links.candidates()) < self._links.expected():
            if time.monotonic() >= until_s:
                return
            await asyncio.sleep(LOOK_S)

    async def _open(self, stack: AsyncExitStack) -> dict[asyncio.Task[None], str]:
        """Open a way; return the tasks that end when it is lost, with whom to blame."""
        state = self.state
        state.epoch = next(self._epochs)
        candidates = {each.name: each for each in self._usable()}
        state.parts = self._plan(list(candidates.values()))
        behind = [candidates[part.node] for part in state.parts[1:]]
        head = next(iter(candidates.values()))
        tasks = stack.enter_context(_Tasks())
        self._links.listen(self.instance, self._relay.returned)
        holds = []
        nexts = [*behind[1:], head]
        for part, node, after in zip(state.parts[1:], behind, nexts, strict=False):
            fields = self._fields(part, after, is_last=after is head)
            holds.append((node.name, await self._enter(stack, node, "hold", fields)))
        own = asyncio.create_task(asyncio.to_thread(self._read_own, state.parts[0]))
        await self._wait_ready(holds, own)
        outlet = Outlet()
        if behind:
            ring = await self._enter(stack, behind[0], "run", {})
            tasks.start(_until_over(ring), "")
            tasks.start(outlet.run(ring), "")
        for name, hold in holds:
            tasks.start(_until_over(hold), name)
        self._relay.resume(Way(state.epoch, self._own, len(behind), outlet.put))
        return tasks.names

    async def _enter(
        self, stack: AsyncExitStack, node: Candidate, op: str, fields: dict[str, Any]
    ) -> Stream:
        what = {"op": op, "instance": self.instance, "epoch": self.state.epoch, **fields}
        call = Call(
            to=f"stage/{self._links.role}", fields=what, deadline_ms=FOREVER_MS, wants_pieces=True
        )
        return await stack.enter_async_context(aclosing(self._links.stream(node.address, call)))

    def _fields(self, part: Part, after: Candidate, *, is_last: bool) -> dict[str, Any]:
        order = replace(
            self._order, first=part.first, last=part.last, next=after.address, is_last=is_last
        )
        return write_order(order)

    def _read_own(self, part: Part) -> None:
        if not part.count:
            self._own = None
            return
        old = self._own
        known = {old.first + at: layer for at, layer in enumerate(old.layers)} if old else {}
        self._own = self._read(part.first, part.last, known)

    async def _wait_ready(
        self, holds: Sequence[tuple[str, Stream]], own: asyncio.Task[None]
    ) -> None:
        """Wait until every stage has read its layers."""

        async def wait(name: str, hold: Stream) -> None:
            try:
                async with asyncio.timeout(LOAD_S):
                    piece = await anext(hold)  # type: ignore[call-overload]
            except (MeshError, StopAsyncIteration, TimeoutError) as error:
                raise Broken(f"stage on {name!r} did not open: {error}", name) from error
            self.state.told[name] = dict(piece.fields)

        self.state.told.clear()
        waits = [asyncio.create_task(wait(name, hold)) for name, hold in holds]
        try:
            await asyncio.gather(own, *waits)
        finally:
            for task in waits:
                task.cancel()
            if not own.done():
                await asyncio.wait([own])  # a thread cannot be stopped

    def _usable(self) -> list[Candidate]:
        """Return who may take part now: who failed lately only if it is this node."""
        now_s = time.monotonic()
        return [
            each
            for at, each in enumerate(self._links.candidates())
            if at == 0 or self._avoid.get(each.name, 0.0) <= now_s
        ]

    def _plan(self, candidates: Sequence[Candidate]) -> tuple[Part, ...]:
        places = [Place(each.name, memory_bytes=each.memory_bytes) for each in candidates]
        return plan(self._layers, self._costs, places, self._counts)

    # --- watching ----------------------------------------------------------------------

    async def _watch(self, watched: dict[asyncio.Task[None], str]) -> None:
        """Return when a better way could be opened; raise `Broken` when this one is lost."""
        better_s = time.monotonic() + BETTER_LOOK_S
        self._failed.clear()
        while True:
            if self._failed.is_set():
                raise Broken("a frame came back that cannot be")
            if not watched:
                await asyncio.sleep(LOOK_S)
                done: set[asyncio.Task[None]] = set()
            else:
                done, _ = await asyncio.wait(
                    watched, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
            if done:
                blamed = [watched[task] for task in done if watched[task]]
                raise Broken("; ".join(_why(task) for task in done), *blamed)
            await self._look_for_silence()
            if time.monotonic() >= better_s:
                better_s = time.monotonic() + BETTER_LOOK_S
                if self._relay.is_idle() and self._is_better():
                    return

    async def _look_for_silence(self) -> None:
        waits_s, usual_s = self._relay.waits_s(), self._relay.usual_s()
        limit_s = max(SILENT_S_MIN, SILENT_TIMES * usual_s) if usual_s else SILENT_S_UNKNOWN
        if waits_s < limit_s:
            return
        silent = await self._silent()
        if silent:
            raise Broken(f"no answer within {limit_s:.1f} s", *silent)
        if self._relay.waits_s() > max(STUCK_S_MIN, STUCK_TIMES * limit_s):
            raise Broken("every stage answers, and a step does not come back")

    async def _silent(self) -> list[str]:
        """Return the stages that do not answer a ping."""
        addresses = {each.name: each.address for each in self._links.candidates()}
        names = [part.node for part in self.state.parts[1:]]
        pings = [self._links.ping(addresses.get(name, ""), self.instance, PING_S) for name in names]
        answers = await asyncio.gather(*pings)
        return [name for name, is_there in zip(names, answers, strict=True) if not is_there]

    def _is_better(self) -> bool:
        try:
            parts = self._plan(self._usable())
        except SetupError:
            return False
        return [part.node for part in parts] != [part.node for part in self.state.parts]

    async def _note(self, error: Exception) -> None:
        """Remember who failed; wait a moment where nobody can be blamed."""
        self._relay.suspend()
        blamed = error.nodes if isinstance(error, Broken) else ()
        silent = await self._silent() if self.opened.is_set() else []
        for name in {*blamed, *silent}:
            self._avoid[name] = time.monotonic() + AVOID_S
        self.state.recoveries += self.opened.is_set()
        self.state.why = str(error)
        log.warning(
            "chain.broken",
            extra={
                "role": self._links.role,
                "why": str(error),
                "nodes": sorted({*blamed, *silent}),
            },
        )
        if not blamed and not silent:
            await asyncio.sleep(RETRY_S)

    def broken(self, epoch: int, error: BaseException) -> None:
        """Be told by the relay's thread that a frame was wrong."""
        self._links.loop.call_soon_threadsafe(self._failed.set)

    # --- what can be seen --------------------------------------------------------------

    def _brief(self) -> dict[str, Any]:
        return {"epoch": self.state.epoch, "parts": [_shown(part) for part in self.state.parts]}

    def statistics(self) -> dict[str, Any]:
        """Return who holds what, and how often the way was lost."""
        state = self.state
        nodes = []
        for at, part in enumerate(state.parts):
            own = self._own.size_bytes() if self._own and not at else 0
            told = state.told.get(part.node, {}) if at else {"bytes": own}
            nodes.append({"node": part.node, "layers": [part.first, part.last], **told})
        return {
            "epoch": state.epoch,
            "nodes": nodes,
            "recoveries": state.recoveries,
            "last_pause_s": round(state.pause_s, 3),
            "why": state.why,
        }


class _Tasks:
    """Tasks that are cancelled together; `names` says whom each one watches."""

    def __init__(self) -> None:
        self.names: dict[asyncio.Task[None], str] = {}

    def start(self, work: Any, name: str) -> None:
        self.names[asyncio.create_task(work)] = name

    def __enter__(self) -> _Tasks:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.names:
            task.cancel()
            task.add_done_callback(_why)  # looked at: nothing is left to report


async def _until_over(stream: Stream) -> None:
    """Read a stream that says nothing until it ends; raise why."""
    while True:
        part = await anext(stream, None)  # type: ignore[call-overload]
        if part is None or isinstance(part, Answer):
            raise ConnectionLost("the stage has ended")


def _why(task: asyncio.Task[Any]) -> str:
    error = None if task.cancelled() else task.exception()
    return str(error or "ended")


def _shown(part: Part) -> str:
    return f"{part.node}:{part.first}-{part.last}"

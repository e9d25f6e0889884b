"""Keeps a model's layers on nodes: opens the way round, watches it, and opens a better one.

Shell: the head's side, on the event loop. `llm.split` decides who computes what, and
`llm.relay` makes the steps. Every opening has a new epoch.

    plan --> order each stage to load --> open the way --> relay.resume --> watch
     ^                                                                        |
     '-- relay.suspend <-- a stage lost, silent or failing; or a better plan -'
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.errors import MeshError, SetupError
from mesh.llm.frames import LANES_MAX
from mesh.llm.links import Candidate, Links, Stream
from mesh.llm.order import TOKEN_BYTES, Order, lane_token, write_order
from mesh.llm.paces import Paces, Speeds
from mesh.llm.passage import Ring
from mesh.llm.relay import Relay
from mesh.llm.split import Costs, Part, Place, plan
from mesh.llm.watch import Broken, Slowed, Tasks, settle, until_ended, until_over, why_of
from mesh.llm.way import Way
from mesh.models.decoder import Layer, Stage
from mesh.wire.messages import Call

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
HOME_S = 5.0  # for the stages to connect to each other, and the last one to the head
LOOK_S = 0.1  # how often the oldest step is looked at
BETTER_LOOK_S = 2.0  # how often a better plan is looked for
GATHER_S = 3.0  # for the other nodes to join, before the first opening
RETRY_S = 0.5  # between openings that fail


@dataclass(slots=True)
class State:
    """What is known of the chain; shown in statistics."""

    epoch: int = 0
    parts: tuple[Part, ...] = ()
    told: dict[str, dict[str, Any]] = field(default_factory=dict)  # by node, when it was ready
    recoveries: int = 0
    why: str = ""


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
        self._speeds = Speeds()
        self._paces = Paces((), {})
        self._epochs = itertools.count(1)
        self._failed: asyncio.Event = asyncio.Event()
        self.opened = asyncio.Event()
        self.state = State()

    async def run(self) -> None:
        """Keep the way open until cancelled."""
        await self._gather()
        while True:
            try:
                async with AsyncExitStack() as stack:
                    watched = await self._open(stack)
                    self.opened.set()
                    log.info("chain.opened", extra={"role": self._links.role, **self._brief()})
                    await self._watch(watched)
            except (Broken, MeshError) as error:
                await self._note(error)
            except Exception:  # the task's root: a role without its chain would wait for ever
                log.exception("chain.failed", extra={"role": self._links.role})
                await asyncio.sleep(RETRY_S)
            finally:
                self._relay.suspend()

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
        tasks = stack.enter_context(Tasks())
        tokens = [os.urandom(TOKEN_BYTES) for _ in state.parts]  # the last one opens the way home
        lanes = min(LANES_MAX, len(state.parts)) if behind else 0  # more steps only wait
        homes = [self._expect(stack, lane_token(tokens[-1], lane)) for lane in range(lanes)]
        holds = []
        nexts = [*behind[1:], head] if behind else []
        for at, (part, node, after) in enumerate(zip(state.parts[1:], behind, nexts, strict=True)):
            fields = self._fields(part, after, tokens[at : at + 2], lanes, is_last=after is head)
            holds.append((node.name, await self._enter(stack, node, "hold", fields)))
        own = asyncio.create_task(asyncio.to_thread(self._read_own, state.parts[0]))
        await self._wait_ready(holds, own)
        sends = []
        for lane, home in enumerate(homes):
            token = lane_token(tokens[0], lane)
            sends.append((await self._close_ring(stack, tasks, behind[0], token, home)).put)
        for name, hold in holds:
            tasks.start(until_over(hold), name)
        self._paces = Paces(state.parts, self._speeds.known(time.monotonic()))
        sharing = _sharing([head, *behind])
        self._relay.resume(Way(state.epoch, self._own, len(behind), sends, self._paces, sharing))
        return tasks.names

    def _expect(self, stack: AsyncExitStack, token: bytes) -> asyncio.Future[Any]:
        stack.callback(self._links.forget, token)
        home = self._links.expect(token)
        stack.callback(home.cancel)
        return home

    async def _close_ring(
        self,
        stack: AsyncExitStack,
        tasks: Tasks,
        first: Candidate,
        token: bytes,
        home: asyncio.Future[Any],
    ) -> Ring:
        """Open a lane: connect to the first stage, which lets all others connect, up to here."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[str] = loop.create_future()

        def ended(why: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody asks
                loop.call_soon_threadsafe(settle, over, why)

        try:
            out = await self._links.dial(first.address, token)
        except MeshError as error:
            raise Broken(f"stage on {first.name!r}: {error}", first.name) from error
        try:
            async with asyncio.timeout(HOME_S):
                back = await home
        except TimeoutError as error:
            out.close()
            raise Broken(f"the way did not come round within {HOME_S:.0f} s") from error
        except BaseException:
            out.close()
            raise
        ring = Ring(out, back, self._order.limits, self._relay.returned, ended)
        stack.callback(ring.close)
        tasks.start(until_ended(over), "")
        return ring

    async def _enter(
        self, stack: AsyncExitStack, node: Candidate, op: str, fields: dict[str, Any]
    ) -> Stream:
        what = {"op": op, "instance": self.instance, "epoch": self.state.epoch, **fields}
        call = Call(
            to=f"stage/{self._links.role}", fields=what, deadline_ms=FOREVER_MS, wants_pieces=True
        )
        return await stack.enter_async_context(aclosing(self._links.stream(node.address, call)))

    def _fields(
        self, part: Part, after: Candidate, tokens: Sequence[bytes], lanes: int, *, is_last: bool
    ) -> dict[str, Any]:
        order = replace(
            self._order,
            first=part.first,
            last=part.last,
            next=after.address,
            is_last=is_last,
            token=tokens[0],
            next_token=tokens[1],
            lanes=lanes,
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
        """Return the cut; slow nodes get less, or nothing where others are enough."""
        places, costs = self._places(candidates), self._costs
        if _sharing(candidates) == len(places):
            costs = costs.together(self._layers)
        slow = self._speeds.known(time.monotonic())
        if not self._counts or not slow:
            return plan(self._layers, costs, places, self._counts)
        fast = [each for at, each in enumerate(places) if at == 0 or each.name not in slow]
        if len(fast) >= len(self._counts) and places[0].name not in slow:
            return plan(self._layers, costs, fast, self._counts)
        return plan(self._layers, costs, places)

    def _places(self, candidates: Sequence[Candidate]) -> list[Place]:
        speeds = self._speeds.known(time.monotonic())
        return [
            Place(each.name, speeds.get(each.name, 1.0), each.memory_bytes) for each in candidates
        ]

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
                raise Broken("; ".join(why_of(task) for task in done), *blamed)
            await self._look_for_silence()
            self._look_for_slow()
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

    def _look_for_slow(self) -> None:
        slow, now_s = self._paces.slow, time.monotonic()
        if slow is not None and self._speeds.may_cut(now_s):
            self._speeds.remember(slow, now_s)
            raise Slowed(f"{slow.node!r} takes {slow.times:.1f} times as long as planned")

    async def _silent(self) -> list[str]:
        """Return the stages that do not answer a ping."""
        addresses = {each.name: each.address for each in self._links.candidates()}
        names = [part.node for part in self.state.parts[1:]]
        pings = [self._links.ping(addresses.get(name, ""), self.instance, PING_S) for name in names]
        answers = await asyncio.gather(*pings)
        return [name for name, is_there in zip(names, answers, strict=True) if not is_there]

    def _is_better(self) -> bool:
        """Return whether a new cut has other nodes, or by measured speeds is much faster."""
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
        if not blamed and not silent and not isinstance(error, Slowed):
            await asyncio.sleep(RETRY_S)

    def broken(self, epoch: int, error: BaseException) -> None:
        """Be told by the relay's thread that a frame was wrong."""
        self._links.loop.call_soon_threadsafe(self._failed.set)

    # --- what can be seen --------------------------------------------------------------

    def _brief(self) -> dict[str, Any]:
        return {"epoch": self.state.epoch, "parts": [_shown(part) for part in self.state.parts]}

    def statistics(self) -> dict[str, Any]:
        """Return who holds what, and how often the way was lost."""
        state, paces = self.state, self._paces.shown()
        nodes = []
        for at, part in enumerate(state.parts):
            own = self._own.size_bytes() if self._own and not at else 0
            told = state.told.get(part.node, {}) if at else {"bytes": own}
            shown = {"node": part.node, "layers": [part.first, part.last], **told}
            nodes.append({**shown, "pace": paces.get(part.node, 0.0)})
        return {
            "epoch": state.epoch,
            "nodes": nodes,
            "layers": self._layers,
            "bytes": sum(each.get("bytes", 0) for each in nodes) + self._costs.ends_bytes,
            "recoveries": state.recoveries,
            "slow": self._speeds.known(time.monotonic()),
            "why": state.why,
        }


def _sharing(nodes: Sequence[Candidate]) -> int:
    """Return how many of the nodes are on one machine: those of the commonest host."""
    hosts = [each.address.rpartition(":")[0] for each in nodes]
    return max(map(hosts.count, hosts))


def _shown(part: Part) -> str:
    return f"{part.node}:{part.first}-{part.last}"

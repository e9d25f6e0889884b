"""Serves parts of split models to their heads, and gives a head its links to others.

Shell: the service `stage/ROLE` of every node that a split role names. A head orders
layers by a call that lasts as long as it wants them; frames come and go on connections of
their own, from thread to thread (`net.handover`, `llm.passage`). This node reads the model
that its own topology names, never a path from the wire.

    hold  from the head: load layers a..b, say when they are ready, keep them until it ends
    ping  are you there?
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import BadRequest, MeshError, NotFound, PeerError, RoleError
from mesh.flow.assign import group_of
from mesh.flow.directory import Membership
from mesh.gossip.member import Member, Status
from mesh.llm.order import Order, lane_token, read_order
from mesh.models import sources
from mesh.models.threads import rest_soon
from mesh.net import handover
from mesh.net.peers import Peers, Reply, split
from mesh.settings.topology import Role, Topology
from mesh.wire.messages import Answer, Call, Piece

log = logging.getLogger(__name__)

SERVICE = "stage/"
KEEP_S = 60.0  # layers stay in memory so long after a head has left: mostly it comes back
HELD_MAX = 8  # parts of models at once; a mesh has few heads
NAME_MAX = 64  # characters of an instance's name
DIAL_S = 2.0  # for the stage after to take a connection: it is loaded, and waits for one


@dataclass(slots=True)
class _Held:
    """A part that some head has ordered."""

    role: str
    instance: str
    epoch: int
    thread: Any  # mesh.llm.stage.StageThreads; torch comes with the first part


@dataclass(slots=True)
class _Shelf:
    """Layers of one role that are in memory, by number, and for which form."""

    form: tuple[str, bool] = ("", False)
    layers: dict[int, Any] = field(default_factory=dict)
    release: asyncio.TimerHandle | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Stages:
    """The parts of split models on one node.

    Args:
        node: its name.
        peers: ways to others.
        topology: returns the one to follow.
        membership: who is there.
        threads: torch computes with.
    """

    def __init__(
        self,
        *,
        node: str,
        peers: Peers,
        topology: Callable[[], Topology],
        membership: Membership,
        threads: int,
    ) -> None:
        self._node, self._peers = node, peers
        self._topology, self._membership = topology, membership
        self._threads = threads
        self._held: dict[tuple[str, str], _Held] = {}
        self._shelves: dict[str, _Shelf] = {}
        if threads > 1 and any(
            spec.layers is not None and node in spec.nodes for spec in topology().roles.values()
        ):
            rest_soon()

    # --- for a head on this node -------------------------------------------------------

    def links(self, role: str) -> RoleLinks:
        """Return what the chain of a role needs of this node."""
        return RoleLinks(self, role)

    def candidates(self, role: str) -> list[Member]:
        """Return the members that may take part, this one first."""
        newest: dict[str, Member] = {}
        for member in self._membership.members:
            known = newest.get(member.facts.name)
            if member.status is Status.ALIVE and (known is None or member.boot > known.boot):
                newest[member.facts.name] = member
        newest[self._node] = self._membership.me
        names = [name for name in self.group(role) if name in newest and name != self._node]
        return [
            newest[name]
            for name in (self._node, *names)
            if name == self._node or not newest[name].facts.draining
        ]

    def group(self, role: str) -> tuple[str, ...]:
        """Return the nodes that share one chain of a role with this one."""
        return group_of(self._spec(role), self._node)

    # --- the service -------------------------------------------------------------------

    async def handle(self, call: Call, reply: Reply) -> Answer:
        """Answer a head, or a stage: the handler of services `stage/…`."""
        role = call.to.removeprefix(SERVICE)
        fields = call.fields
        instance, epoch = fields.get("instance"), fields.get("epoch", 0)
        if not isinstance(instance, str) or not 0 < len(instance) <= NAME_MAX:
            raise BadRequest(f"instance: expected a short name, found {instance!r}", role=role)
        if type(epoch) is not int or not 0 <= epoch < 1 << 32:
            raise BadRequest(f"epoch: expected 0 to 2³²-1, found {epoch!r}", role=role)
        match fields.get("op"):
            case "hold":
                return await self._hold(role, instance, epoch, fields, reply)
            case "ping":
                return self._ping(role, instance)
            case op:
                raise BadRequest(f"op: expected hold or ping, found {op!r}", role=role)

    def statistics(self) -> dict[str, Any]:
        """Return figures of the parts that are held here."""
        return {
            f"{held.role}/{held.instance}": {
                "epoch": held.epoch,
                "layers": [held.thread.stage.first, held.thread.stage.last],
                "bytes": held.thread.stage.size_bytes(),
                "steps": held.thread.pace.done,
                "compute_ms": round(held.thread.pace.compute_ms, 3),
                "idle_ms": round(held.thread.pace.idle_ms, 3),
                "busy_s": round(held.thread.pace.busy_s, 3),
                "dropped": held.thread.pace.dropped,
            }
            for held in self._held.values()
        }

    def close(self) -> None:
        """Let go of every part."""
        for held in list(self._held.values()):
            held.thread.close()
        for shelf in self._shelves.values():
            if shelf.release is not None:
                shelf.release.cancel()

    def _spec(self, role: str) -> Role:
        spec = self._topology().roles.get(role)
        if spec is None or spec.layers is None or self._node not in spec.nodes:
            raise NotFound(f"{self._node} has no part in a split role {role!r}", role=role)
        return spec

    def _ping(self, role: str, instance: str) -> Answer:
        held = self._held.get((role, instance))
        if held is None:
            raise NotFound(f"{self._node} holds nothing of {instance!r}", role=role)
        pace = held.thread.pace
        return Answer({"epoch": held.epoch, "received": pace.received, "done": pace.done})

    async def _hold(
        self, role: str, instance: str, epoch: int, fields: Mapping[str, Any], reply: Reply
    ) -> Answer:
        """Keep layers for a head until it lets go, is lost, or orders anew."""
        order = read_order(fields)
        source = self._source(role)
        key = (role, instance)
        old = self._held.pop(key, None)
        if old is not None:
            old.thread.close()
        if len(self._held) >= HELD_MAX:
            raise RoleError(f"{self._node} holds {HELD_MAX} parts, the limit", role=role)
        shelf = self._shelves.setdefault(role, _Shelf())
        async with shelf.lock:
            stage = await self._read(shelf, order, source)
        broken = asyncio.get_running_loop().create_future()
        thread, passages = self._start(stage, order, epoch, broken)
        held = _Held(role, instance, epoch, thread)
        self._held[key] = held
        del stage  # or it stays with this call when a newer one has replaced it
        told = {"bytes": thread.stage.size_bytes(), "epoch": epoch}
        log.info("stage.held", extra={"role": role, "layers": f"{order.first}-{order.last}"})
        for token, passage in passages.items():
            self._peers.handover.expect(token, passage.take)
        try:
            await reply.send(Piece(told))
            # Nothing comes: the head lets go, or is lost, or the arithmetic here fails.
            await _first_end(reply.receive(), broken)
            return Answer({})
        finally:
            for token in passages:
                self._peers.handover.forget(token)
            thread.close()
            if self._held.get(key) is held:
                del self._held[key]
            self._release_later(role, shelf)

    def _start(
        self, stage: Any, order: Order, epoch: int, broken: asyncio.Future[None]
    ) -> tuple[Any, dict[bytes, Any]]:
        """Return the threads of a part, and by token the passages on which they wait."""
        from mesh.llm.passage import Passage
        from mesh.llm.stage import StageThreads

        loop = asyncio.get_running_loop()

        def failed(error: BaseException) -> None:
            log.log(
                logging.INFO if isinstance(error, PeerError) else logging.ERROR,
                "stage.ended",
                extra={"why": str(error)},
            )
            if not isinstance(error, PeerError):  # that is not this node's fault: the head sees it
                loop.call_soon_threadsafe(_fail, broken, error)

        def passage(lane: int) -> Passage:
            where, token = split(order.next), lane_token(order.next_token, lane)
            return Passage(order.limits, lambda: handover.dial(*where, token, DIAL_S))

        passages = {lane_token(order.token, lane): passage(lane) for lane in range(order.lanes)}
        thread = StageThreads(
            stage,
            order.limits,
            epoch=epoch,
            threads=self._threads,
            is_last=order.is_last,
            passages=list(passages.values()),
            failed=failed,
        )
        return thread, passages

    async def _read(self, shelf: _Shelf, order: Order, source: str) -> Any:
        """Return a stage of the ordered layers; those that are in memory are not read again."""
        if shelf.release is not None:
            shelf.release.cancel()
        if shelf.form != (order.form, order.has_wide):
            shelf.layers, shelf.form = {}, (order.form, order.has_wide)

        def read() -> Any:
            from mesh.llm.loading import read_stage

            return read_stage(sources.locate(source), order, shelf.layers)

        stage = await asyncio.to_thread(read)
        shelf.layers = {stage.first + at: layer for at, layer in enumerate(stage.layers)}
        return stage

    def _release_later(self, role: str, shelf: _Shelf) -> None:
        if any(held.role == role for held in self._held.values()):
            return
        if shelf.release is not None:
            shelf.release.cancel()
        loop = asyncio.get_running_loop()
        shelf.release = loop.call_later(KEEP_S, self._shelves.pop, role, None)

    def _source(self, role: str) -> str:
        spec, models = self._spec(role), self._topology().models
        if spec.model not in models:
            raise NotFound(f"role {role!r} names no model", role=role)
        return models[spec.model].source


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(RoleError(f"the stage failed: {error}"))


async def _first_end(*works: Any) -> None:
    """Run until the first ends; raise what it raised, cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RoleLinks:
    """What one chain needs of this node; `mesh.llm.links.Links`."""

    def __init__(self, stages: Stages, role: str) -> None:
        self._stages, self.role = stages, role
        self.loop = asyncio.get_running_loop()

    @property
    def layers(self) -> Any:
        """Return what the topology says of the cut."""
        return self._stages._spec(self.role).layers

    def candidates(self) -> Sequence[Any]:
        """Return the live nodes that may take part, this one first."""
        from mesh.llm.links import Candidate

        return [
            Candidate(member.facts.name, member.address, member.facts.memory_mb << 20)
            for member in self._stages.candidates(self.role)
        ]

    def expected(self) -> int:
        """Return how many nodes the topology names for this chain."""
        return len(self._stages.group(self.role))

    def stream(self, address: str, call: Call) -> Any:
        """Open a call with pieces to another node's stages."""
        return self._stages._peers.stream(address, call)

    async def ping(self, address: str, instance: str, within_s: float) -> bool:
        """Return whether the node is there and answers."""
        fields = {"op": "ping", "instance": instance}
        call = Call(
            to=f"{SERVICE}{self.role}", fields=fields, deadline_ms=max(1, int(within_s * 1000))
        )
        try:
            await self._stages._peers.call(address, call)
        except NotFound:
            return True  # it has let go of its part: the call that ordered it tells that
        except MeshError:
            return False
        return True

    def expect(self, token: bytes) -> asyncio.Future[socket.socket]:
        """Return the connection that will bring this token."""
        found = self.loop.create_future()
        self._stages._peers.handover.expect(token, lambda sock: _give(found, sock))
        return found

    def forget(self, token: bytes) -> None:
        """Expect it no more."""
        self._stages._peers.handover.forget(token)

    async def dial(self, address: str, token: bytes) -> socket.socket:
        """Connect to a stage that expects this token."""
        where = split(address)
        return await asyncio.to_thread(handover.dial, *where, token, DIAL_S)


def _give(found: asyncio.Future[socket.socket], sock: socket.socket) -> None:
    if found.done():
        sock.close()
    else:
        found.set_result(sock)

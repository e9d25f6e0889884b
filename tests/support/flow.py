"""Several nodes' flow in one loop and virtual time: fake membership, wire and lanes.

The fakes can do the worst that the real things do: lose a call before or after it
ran, be late, fall silent, die between two pieces of a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mesh.errors import ConnectionLost, DeadlineExceeded, MeshError, Unreachable
from mesh.flow.directory import Directory
from mesh.flow.lane import Computed, run_batch
from mesh.flow.local import LocalRoles
from mesh.flow.once import Once
from mesh.flow.pipeline import Pipelines
from mesh.flow.router import Router
from mesh.gossip.member import Facts, Member, Status
from mesh.policy.request import Priority, Request
from mesh.roles.base import Context, Role
from mesh.settings.schema import Compute, Limits
from mesh.settings.topology import Mesh, Topology
from mesh.settings.topology import Role as Spec
from mesh.wire.messages import Answer, Call, Fields, Piece

NODES = ("n0", "n1", "n2")


def request(id: str = "r", in_s: float = 60.0, priority: Priority = Priority.NORMAL) -> Request:
    """Build a request whose deadline is `in_s` from now on the running loop."""
    return Request(id, asyncio.get_running_loop().time() + in_s, priority)


class FakeLane:
    """Computes a batch in `run_s` of loop time, or in what `run_s(items)` says."""

    def __init__(
        self, role: Role, run_s: float | Callable[[Sequence[Fields]], float] = 0.1
    ) -> None:
        self.role = role
        self.run_s = run_s
        self.batches: list[list[Fields]] = []
        self.is_closed = False

    async def load(self) -> None:
        self.role.load()

    def compute(self, items: Sequence[Fields], done: Callable[[Computed], None]) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        self.batches.append(list(items))
        seconds = self.run_s(items) if callable(self.run_s) else self.run_s
        answers = run_batch(self.role, items).answers
        loop.call_later(seconds, lambda: done(Computed(answers, began_s, loop.time())))

    async def aclose(self) -> None:
        self.is_closed = True
        self.role.close()


class FakeMembership:
    """Members as a test sets them."""

    def __init__(self, me: str) -> None:
        self._me = me
        self.members: tuple[Member, ...] = ()
        self.version = 0
        self._changed = asyncio.Event()

    @property
    def me(self) -> Member:
        return next(member for member in self.members if member.facts.name == self._me)

    def set(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_change(self, version: int) -> int:
        while self.version == version:
            await self._changed.wait()
        return self.version


def member(name: str, roles: Sequence[str] = (), **facts: Any) -> Member:
    """Build a living member whose address is its name."""
    status = facts.pop("status", Status.ALIVE)
    boot = facts.pop("boot", 1)
    told = Facts(name=name, roles=tuple(roles), **facts)
    return Member(f"id-{name}-{boot}", boot, 0, status, f"{name}:{boot}", told)


@dataclass
class Reached:
    """What `Peers.call` returns."""

    answer: Answer
    network_ms: float


@dataclass
class Fault:
    """What goes wrong on the way to one node; each is asked per call."""

    before: MeshError | None = None  # raised instead of sending
    after: MeshError | None = None  # raised once the peer has answered: it ran
    delay_s: float = 0.0
    is_silent: bool = False  # never answers
    pieces_max: int | None = None  # dies after so many pieces
    stalls_after: int | None = None  # falls silent after so many pieces
    times: int = 10**9  # how many calls it meets


class FakePeers:
    """Carries calls to the handlers of other nodes in the same loop."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def quiet(self) -> set[str]:
        return self._network.quiet

    async def call(self, address: str, call: Call) -> Reached:
        try:
            async with asyncio.timeout(call.deadline_ms / 1000.0):
                return await self._call(address, call)
        except TimeoutError:
            raise DeadlineExceeded() from None

    def start(self, address: str, call: Call, tell: Callable[[Reached | MeshError], None]):
        """Call, and tell how it ended, unless what is returned is cancelled."""
        task = asyncio.get_running_loop().create_task(self.call(address, call))

        def ended(task: asyncio.Task[Reached]) -> None:
            if not task.cancelled():
                error = task.exception()
                tell(task.result() if error is None else error)

        task.add_done_callback(ended)
        return task

    async def stream(self, address: str, call: Call):
        fault = self._network.meet(address)
        await asyncio.sleep(fault.delay_s)
        pieces: asyncio.Queue[Piece | Answer | MeshError] = asyncio.Queue()
        task = asyncio.create_task(self._serve_stream(address, call, pieces))
        sent = 0
        try:
            while True:
                if fault.pieces_max is not None and sent >= fault.pieces_max:
                    raise ConnectionLost("died in mid-stream")
                if sent == fault.stalls_after:
                    await asyncio.get_running_loop().create_future()
                part = await pieces.get()
                if isinstance(part, MeshError):
                    raise part
                yield part
                sent += 1
                if isinstance(part, Answer):
                    return
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _call(self, address: str, call: Call) -> Reached:
        loop = asyncio.get_running_loop()
        fault = self._network.meet(address)
        if fault.is_silent:
            await loop.create_future()
        began_s = loop.time()
        await asyncio.sleep(fault.delay_s)
        task = asyncio.create_task(self._network.handlers[address](call, None))
        try:
            answer = await task
        finally:
            task.cancel()
        if fault.after is not None:
            raise fault.after
        total_ms = (loop.time() - began_s) * 1000.0
        return Reached(answer, total_ms - answer.timing.queued_ms - answer.timing.ran_ms)

    async def _serve_stream(self, address: str, call: Call, pieces: asyncio.Queue[Any]) -> None:
        class Reply:
            async def send(self, piece: Piece) -> None:
                pieces.put_nowait(piece)

        try:
            pieces.put_nowait(await self._network.handlers[address](call, Reply()))
        except MeshError as error:
            pieces.put_nowait(error)


@dataclass
class Network:
    """Handlers by address, and what goes wrong on the way to each."""

    handlers: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    quiet: set[str] = field(default_factory=set)

    def meet(self, address: str) -> Fault:
        self.calls.append(address)
        fault = self.faults.get(address, Fault())
        if fault.times <= 0:
            fault = Fault()
        fault.times -= 1
        if address not in self.handlers:
            raise Unreachable(f"nobody listens at {address}")
        if fault.before is not None:
            raise fault.before
        return fault


class FlowNode:
    """One node's flow, composed as `mesh.node` does."""

    def __init__(self, name: str, network: Network, world: World) -> None:
        clock = asyncio.get_running_loop().time
        self.name = name
        self.membership = FakeMembership(name)
        self.local = LocalRoles(
            node=name, data=Path("var"), compute=Compute(), limits=Limits(), clock=clock
        )
        self.directory = Directory(self.membership, lambda: world.topology)
        self.router = Router(
            directory=self.directory,
            local=self.local,
            peers=FakePeers(network),
            topology=lambda: world.topology,
            rng=Random(name),
            clock=clock,
        )
        self.local.ask = self.router.ask
        self.pipelines = Pipelines(lambda: world.topology, self.router, clock=clock)
        self.once = Once(
            pipelines=self.pipelines,
            directory=self.directory,
            peers=FakePeers(network),
            topology=lambda: world.topology,
            doubts=self.router.doubts,
            clock=clock,
        )
        network.handlers[f"{name}:1"] = self.handle

    async def handle(self, call: Call, reply: Any) -> Answer:
        """Answer a peer."""
        handler = self.once.handle if call.to.startswith("once/") else self.local.handle
        return await handler(call, reply)

    def serve(self, role: str, kind: type[Role], spec: Spec, run_s: Any = 0.1) -> FakeLane:
        """Serve a role with a fake lane."""
        made = kind(Context(role=role, options={**kind.options, **spec.options}))
        lane = FakeLane(made, run_s)
        self.local.add(role, made, spec, lane)
        return lane


class World:
    """Nodes that all know each other, and one topology."""

    def __init__(self, names: Sequence[str] = NODES) -> None:
        self.network = Network()
        self.topology = Topology(mesh=Mesh(name="test"))
        self.nodes = {name: FlowNode(name, self.network, self) for name in names}
        self.lanes: dict[tuple[str, str], FakeLane] = {}

    def __getitem__(self, name: str) -> FlowNode:
        return self.nodes[name]

    def role(self, name: str, kind: type[Role], *nodes: str, run_s: Any = 0.1, **spec: Any) -> None:
        """Serve a role on some nodes and let everybody know."""
        made = Spec(kind=f"{kind.__module__}:{kind.__qualname__}", nodes=nodes, **spec)
        self.topology = replace_roles(self.topology, {**self.topology.roles, name: made})
        for node in nodes:
            self.lanes[name, node] = self.nodes[node].serve(name, kind, made, run_s)
        self.tell()

    def pipeline(self, name: str, pipeline: Any) -> None:
        """Add a pipeline to the topology."""
        self.topology = Topology(
            mesh=self.topology.mesh,
            roles=self.topology.roles,
            pipelines={**self.topology.pipelines, name: pipeline},
        )

    def tell(self, **status: Status) -> None:
        """Let every node see every node, with the status given by name, else alive."""
        members = [
            replace_status(member(name, node.local.ready), status.get(name, Status.ALIVE))
            for name, node in self.nodes.items()
        ]
        for node in self.nodes.values():
            node.membership.set(members)


def replace_roles(topology: Topology, roles: dict[str, Spec]) -> Topology:
    """Return the topology with other roles."""
    return Topology(mesh=topology.mesh, roles=roles, pipelines=topology.pipelines)


def replace_status(who: Member, status: Status) -> Member:
    """Return the member with another status."""
    return Member(who.id, who.boot, who.incarnation, status, who.address, who.facts)

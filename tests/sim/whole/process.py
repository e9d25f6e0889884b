"""One simulated process: the production parts of a node, put together as `mesh.node` does.

Shell. Gossip's machine belongs to the host and is driven by the world; everything above it
runs here, in the process's own loop: connections, duties, placement, directory, router, once,
batchers, admission, topology changes, drain. Only sockets, clocks, files, lanes and HTTP are
played.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from mesh.errors import MeshError
from mesh.flow import once, takeover
from mesh.flow.admission import Admission
from mesh.flow.directory import Directory
from mesh.flow.duties import Duties
from mesh.flow.local import SERVICE, LocalRoles
from mesh.flow.once import Once
from mesh.flow.pipeline import Outcome, Pipelines, TokenPiece
from mesh.flow.router import Router
from mesh.flow.serving import Serving
from mesh.flow.takeover import Takeover
from mesh.gossip.member import Facts
from mesh.net.follow import follow
from mesh.net.peers import Peers
from mesh.observe import logs
from mesh.policy.request import Request
from mesh.settings.schema import Compute, Join
from mesh.settings.topology import Topology
from mesh.wire.messages import Call
from tests.sim.whole.loops import HostLoop
from tests.sim.whole.seat import Paper, Seat

if TYPE_CHECKING:
    from tests.sim.whole.clients import Visit
    from tests.sim.whole.links import End
    from tests.sim.whole.town import Town
    from tests.sim.world import Host

LOAD_EVERY_S, LOAD_STEP_S = 1.0, 0.05  # as in `mesh.node`
DRAIN_S = 15.0
LEAVE_S = 3.0


class SimPeers(Peers):
    """The production connections, watched."""

    process: Process

    async def call(self, address: str, call: Call) -> Any:
        """Call, within the time that this process was given."""
        self.process.world.laws_of_flow.sent(self.process, call)
        return await super().call(address, call)

    def stream(self, address: str, call: Call) -> Any:
        """Call for pieces, within the time that this process was given."""
        self.process.world.laws_of_flow.sent(self.process, call)
        return super().stream(address, call)

    def serve(self, service: str, handler: Any) -> None:
        """Let a handler answer, watched."""
        process = self.process

        async def watched(call: Call, reply: Any) -> Any:
            with process.world.laws_of_flow.serving(process, call):
                return await handler(call, reply)

        super().serve(service, watched)


class Process:
    """A running node."""

    def __init__(self, world: Town, host: Host) -> None:
        self.world, self.host, self.links = world, host, world.links
        self.name, self.address = host.name, host.address
        self.label = f"{host.name}.{host.generation}"
        self.loop = HostLoop(lambda: host.local_s(world.now_s), self, world.task_failed)
        self.armed_s: float | None = None
        self.is_dead = self.is_paused = self.is_listening = self.is_leaving = False
        self.slowness = 1.0
        self.struck_by: Callable[[], None] | None = None  # told when it next begins some work
        self.paused_s = self.left_at_s = float("-inf")  # world time of the last pause; of leaving
        self.told_s: dict[str, float] = {}  # request: until when this process was given time
        self.visits: dict[Visit, asyncio.Task[None]] = {}
        self._factory: Callable[[], Any] | None = None
        self._runs = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.post(self._begin)

    # -- what the world does ------------------------------------------------------------

    def post(self, what: Callable[..., Any], *args: Any) -> None:
        """Let something run in this process, as soon as it can."""
        if not self.is_dead:
            self.loop.call_soon(what, *args)
            self.world.arm(self)

    def die(self, *, is_silent: bool) -> None:
        """End at once, without a word; a machine without power does not even reset."""
        self.is_dead = True
        self.links.die(self, is_silent=is_silent)
        self.loop.bury()
        for visit in list(self.visits):
            visit.broke(is_silent=is_silent)

    def accept(self, end: End) -> None:
        """Take a connection that the kernel has accepted."""
        if self._factory is None or not self.is_listening:
            end.protocol = asyncio.Protocol()
            end.abort()
            return
        end.protocol = self._factory()
        end.protocol.connection_made(end)

    def listen(self, factory: Callable[[], Any]) -> Any:
        """Let connections come."""
        self._factory, self.is_listening = factory, True
        return self

    def close(self) -> None:
        """Listen no more."""
        self.is_listening = False

    def wall_s(self) -> float:
        """Return the host's wall clock, which may jump."""
        return self.world.now_s + self.world.wall_jumps_s.get(self.name, 0.0)

    def ran(self, role: str, text: str) -> str:
        """Note that an item is run; return the name of this run."""
        self._runs += 1
        run = f"{self.label}#{self._runs}"
        self.world.tell_tale(self.label, "runs", role, text, "as", run)
        self.world.laws_of_flow.ran(self, role, text, run)
        if self.struck_by is not None:
            self.struck_by()
        return run

    # -- the node -----------------------------------------------------------------------

    def _begin(self) -> None:
        self.keep(self._live())

    def keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a task of this process; it must not fail."""
        task = self.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def strays(self) -> list[str]:
        """Return the tasks that nobody would miss at a quiet node."""
        every = asyncio.all_tasks(self.loop)
        return sorted(str(task.get_coro()) for task in every if task not in self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task)
        if not task.cancelled() and task.exception() is not None and not self.is_dead:
            self.world.task_failed(f"{self.label}: {task.exception()!r}")

    async def _live(self) -> None:
        self._build_inner()
        self._build_flow()
        await self.peers.listen(self.address)
        for work in (
            self.duties.run(),
            self.takeover.run(),
            follow(self.membership, self.peers),  # type: ignore[arg-type]
            self.router.run(),
            self._tell_load(),
        ):
            self.keep(work)

    def _build_inner(self) -> None:
        world, clock = self.world, self.loop.time
        self.membership = Seat(world, self.host)
        self.serving, self.admission = Serving(), Admission(world.limits)
        self.peers = SimPeers(mesh_name="sim", node=self.name, secret="", limits=world.limits)
        self.peers.process = self
        self.local = LocalRoles(
            node=self.name,
            data=Path(self.label),
            compute=Compute(),
            limits=world.limits,
            changed=self._tell,
            clock=clock,
        )
        self.peers.serve(SERVICE, self.serving.counting(self.local.handle))
        copy: Any = Paper(world.kept, self.name)
        log, first = logs.named("sim.takeover", node=self.name), world.texts[0]
        topology, text = takeover.newest(world.topologies[first], first, copy, self._parse, log)
        self.takeover = Takeover(
            topology,
            text,
            path=copy,
            copy=copy,
            parse=self._parse,
            lacks=lambda _: [],
            membership=self.membership,
            peers=self.peers,
            log=log,
            finish_s=DRAIN_S,
            changed=self._tell,
            clock=clock,
        )
        self.takeover.serve(self.peers)
        self._tell()

    def _parse(self, text: str, _: str) -> Topology:
        return self.world.topologies[text]

    def _build_flow(self) -> None:
        world, clock = self.world, self.loop.time
        self.directory = Directory(self.membership, self.takeover.routable)
        self.router = Router(
            directory=self.directory,
            local=self.local,
            peers=self.peers,
            topology=self.takeover.routable,
            rng=Random(f"{world.seed}/{self.label}"),
            clock=clock,
        )
        self.local.ask = self.router.ask
        self.duties = Duties(
            self.name,
            self.takeover.duty,
            self.local,
            self.membership,
            Join(seeds=("seed:1",)),
            DRAIN_S,
            clock=clock,
        )
        self.pipelines = Pipelines(lambda: self.takeover.current, self.router, clock=clock)
        self.once = Once(
            pipelines=self.pipelines,
            directory=self.directory,
            peers=self.peers,
            topology=lambda: self.takeover.current,
            doubts=self.router.doubts,
            clock=clock,
        )
        self.peers.serve(once.SERVICE, self.serving.counting(self.once.handle))

    # -- news of this node --------------------------------------------------------------

    def _facts(self) -> Facts:
        return Facts(
            name=self.name,
            roles=self.local.ready,
            topology_epoch=self.takeover.next.mesh.epoch,
            topology_digest=self.takeover.digest,
            load=round(self.local.waiting_s(), 3),
            draining=self.is_leaving,
        )

    def _tell(self) -> None:
        self._told = self._facts()
        self.membership.tell(self._told)

    async def _tell_load(self) -> None:
        while True:
            await asyncio.sleep(LOAD_EVERY_S)
            if abs(self.local.waiting_s() - self._told.load) > LOAD_STEP_S:
                self._tell()

    @property
    def is_ready(self) -> bool:
        """Whether a balancer before the mesh would send requests here."""
        return self.is_listening and not self.is_leaving and not self.duties.why_not_ready()

    # -- the door -----------------------------------------------------------------------

    def knock(self, visit: Visit) -> None:
        """Take a request from outside."""
        task = self.loop.create_task(self._answer(visit))
        self.visits[visit] = task
        task.add_done_callback(lambda _: self.visits.pop(visit, None))

    def hang_up(self, visit: Visit) -> None:
        """Let go of a request whose client has gone, as the HTTP server does."""
        if visit in self.visits:
            self.visits[visit].cancel()

    async def _answer(self, visit: Visit) -> None:
        """As `api.native.run_pipeline`."""
        request = Request(visit.ask.id, self.loop.time() + visit.left_s, visit.ask.priority)
        self.world.tell_tale(self.label, "is asked", visit.ask.text, visit.ask.pipeline)
        self.told_s[request.id] = max(self.told_s.get(request.id, 0.0), request.deadline_s)
        try:
            with self.admission.admit(request):
                said = await self._said(visit, request)
        except MeshError as error:
            visit.reply("error", error, request.deadline_s)
        except asyncio.CancelledError:
            visit.broke(is_silent=False)
            raise
        else:
            visit.reply("done", said, request.deadline_s)

    async def _said(self, visit: Visit, request: Request) -> str:
        ask, inputs = visit.ask, {"text": visit.ask.text}
        if not ask.wants_pieces:
            run = self.once.run if ask.has_own_id else self.pipelines.run
            return str((await run(ask.pipeline, inputs, request)).fields["said"])
        said = ""
        async with aclosing(self.pipelines.stream(ask.pipeline, inputs, request)) as parts:
            async for part in parts:
                if isinstance(part, TokenPiece):
                    visit.reply("piece", part.text, request.deadline_s)
                elif isinstance(part, Outcome):
                    said = str(part.fields["said"])
        return said

    # -- the end ------------------------------------------------------------------------

    def leave(self) -> None:
        """Begin the orderly end, as SIGTERM does."""
        if not self.is_leaving:
            self.is_leaving, self.left_at_s = True, self.world.now_s
            self.keep(self._end())

    async def _end(self) -> None:
        """As `mesh.node.Node._end`, then `aclose`."""
        until_s = self.loop.time() + DRAIN_S
        self._tell()
        await self.duties.hand_over(until_s)
        self.admission.drain()
        await self.admission.wait_idle(max(0.0, until_s - self.loop.time()))
        await self.serving.wait_idle(max(0.0, until_s - self.loop.time()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self.membership.leave()
        own = asyncio.current_task()
        for task in [*self.visits.values(), *self._tasks]:
            if task is not own:
                task.cancel()
        await self.local.aclose()
        await self.peers.aclose()
        self.loop.call_soon(self.world.ended, self)

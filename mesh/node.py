"""One node, put together from its parts: the one file that knows all of them.

Shell. A life in order: check what must be there → open the doors (not ready yet)
→ meet the mesh and load roles → serve → drain → finish → leave → stop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time

from mesh.api import app, lines, takes
from mesh.api.figures import Figures
from mesh.api.parts import Parts
from mesh.errors import SetupError
from mesh.flow import once, stages, takeover
from mesh.flow.admission import Admission
from mesh.flow.directory import Directory
from mesh.flow.duties import Duties, missing_models
from mesh.flow.elastic import Elastic
from mesh.flow.local import SERVICE, LocalRoles
from mesh.flow.once import Once
from mesh.flow.pipeline import Pipelines
from mesh.flow.router import Router
from mesh.flow.serving import Serving
from mesh.flow.stages import Stages
from mesh.flow.takeover import Takeover
from mesh.gossip.member import Facts
from mesh.net.follow import follow
from mesh.net.identity import Hold
from mesh.net.membership import Membership
from mesh.net.peers import Peers
from mesh.observe import logs
from mesh.observe.metrics import Metrics
from mesh.observe.stats import Lag, Process
from mesh.observe.traces import Traces
from mesh.roles import custom
from mesh.settings.load import Settings, parse_topology
from mesh.settings.topology import Topology

LOAD_EVERY_S = 1.0  # how often news of this node's load is considered
LOAD_STEP_S = 0.05  # a change of load that is smaller is no news
LEAVE_S = 3.0  # for telling the others; the protocol itself bounds it to two


class Node:
    """One node of a mesh.

    Args:
        settings: everything that it was told.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.node
        self.log = logs.named("mesh.node", node=self.settings.name)
        self.topology, self._topology_text = takeover.newest(
            settings.topology,
            settings.topology_text,
            self.settings.data / takeover.COPY,
            self._parse,
            self.log,
        )
        self.http_address = self.peer_address = ""
        self._stop = asyncio.Event()
        self._is_leaving = False
        self.serving = Serving()

    async def run(self, *, signals: bool = True) -> None:
        """Live until told to stop.

        Raises:
            SetupError: something that this node needs is not there.
        """
        if signals:
            self._listen_to_signals()
        try:
            await self.open()
        except BaseException:
            await self.aclose()
            raise
        await self.run_opened()

    async def run_opened(self) -> None:
        """Live, after `open`, until told to stop."""
        try:
            await self._live()
        finally:
            await self.aclose()

    async def open(self) -> None:
        """Check what must be there, open both doors, and put the parts together."""
        self._check_files()
        self._folder = Hold(self.settings.data)
        self._build_inner()
        self.peer_address = await self.peers.listen(self.settings.listen.peer)
        self._doors = app.bind("listen.http", self.settings.listen.http)
        self.http_address = app.address_of(self._doors)
        self._build_outer()
        await self._site.start(self._doors)
        await self.membership.start()
        self.log.info("node.opened", http=self.http_address, peer=self.peer_address)

    def stop(self) -> None:
        """Begin the orderly end."""
        self._stop.set()

    def why_not_ready(self) -> str:
        """Return why this node should not be sent requests yet or any more, or ""."""
        if self._is_leaving:
            return "draining: this node is about to leave"
        return self.duties.why_not_ready()

    async def aclose(self) -> None:
        """Close every part that is open."""
        for part in (getattr(self, name, None) for name in ("_site", "local", "peers")):
            if part is not None:
                await part.aclose()
        for held in (getattr(self, name, None) for name in ("_doors", "_folder")):
            if held is not None:
                held.close()

    # ------------------------------------------------------------------ building

    def _check_files(self) -> None:
        """Report every missing model at once, before anything listens."""
        problems = missing_models(self.topology, self.settings.name)
        try:
            self.settings.data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problems.append(f"data: cannot make the folder {str(self.settings.data)!r}: {error}")
        if problems:
            raise SetupError(*problems)

    def _parse(self, text: str, source: str) -> Topology:
        """Return a topology that came while this node ran, checked as one that it starts with."""
        return parse_topology(
            text,
            source=source,
            folder=self.settings.topology.parent,
            own_name=self.settings.name,
            kind_of=custom.find,
        )

    def _build_inner(self) -> None:
        """Make the parts that need no address."""
        settings = self.settings
        self.admission = Admission(settings.limits)
        self.peers = Peers(
            mesh_name=self.topology.mesh.name,
            node=settings.name,
            secret=settings.security.secret,
            limits=settings.limits,
        )
        self.local = LocalRoles(
            node=settings.name,
            data=settings.data,
            compute=settings.compute,
            limits=settings.limits,
            changed=self._tell,
        )
        self.peers.serve(SERVICE, self.serving.counting(self.local.handle, self.local.begin))

    def _build_outer(self) -> None:
        """Make the parts that need this node's addresses."""
        settings, rng = self.settings, random.Random()
        self.membership = Membership(
            mesh_name=self.topology.mesh.name,
            secret=settings.security.secret,
            settings=settings.gossip,
            listen=self.peer_address,
            advertise=settings.advertise.peer,
            seeds=settings.join.seeds,
            facts=Facts(name=settings.name),
            identity=settings.data / "identity.json",
            rng=rng,
            peers=self.peers,
        )
        self._build_topology()
        directory = Directory(self.membership, self.takeover.routable)
        self.elastic = Elastic(self.takeover.duty, self.local, directory)
        self._tell()
        self.router = Router(
            directory=directory,
            local=self.local,
            peers=self.peers,
            topology=self.takeover.routable,
            rng=rng,
        )
        self.local.ask = self.router.ask
        self._build_stages()
        self.duties = Duties(
            settings.name,
            self.takeover.duty,
            self.local,
            self.membership,
            settings.join,
            settings.limits.drain_s,
            self._look,
        )
        self.pipelines = Pipelines(self._topology, self.router)
        self.once = Once(
            pipelines=self.pipelines,
            directory=directory,
            peers=self.peers,
            topology=self._topology,
            doubts=self.router.doubts,
        )
        self.peers.serve(once.SERVICE, self.serving.counting(self.once.handle))
        self._build_door()

    def _build_stages(self) -> None:
        self.stages = Stages(
            node=self.settings.name,
            peers=self.peers,
            topology=self.takeover.duty,
            membership=self.membership,
            threads=self.settings.compute.threads,
        )
        self.local.links = self.stages.links
        self.peers.serve(stages.SERVICE, self.stages.handle)

    def _build_topology(self) -> None:
        settings = self.settings
        self.takeover = Takeover(
            self.topology,
            self._topology_text,
            path=settings.topology,
            copy=settings.data / takeover.COPY,
            parse=self._parse,
            lacks=lambda topology: missing_models(topology, settings.name),
            membership=self.membership,
            peers=self.peers,
            log=self.log,
            finish_s=settings.limits.drain_s,
            changed=self._follow_topology,
        )
        self.takeover.serve(self.peers)

    def _build_door(self) -> None:
        metrics = Metrics()
        self._lag = Lag(metrics.loop_lag_seconds.observe)
        figures = Figures(
            topology=self._topology,
            membership=self.membership,
            peers=self.peers,
            local=self.local,
            router=self.router,
            pipelines=self.pipelines,
            admission=self.admission,
            process=Process(self._lag),
            takeover=self.takeover,
            stages=self.stages,
            once=self.once,
        )
        figures.declare(metrics)
        role_types = takes.of_roles(self.topology)
        self.parts = parts = Parts(
            settings=self.settings,
            topology=self.topology,
            topology_text=self._topology_text,
            takeover=self.takeover,
            stop=self.stop,
            pipelines=self.pipelines,
            once=self.once,
            admission=self.admission,
            members=lambda: self.membership.members,
            why_not_ready=self.why_not_ready,
            statistics=figures.statistics,
            role_types=role_types,
            input_types=takes.of_pipelines(self.topology, role_types),
            metrics=metrics,
            traces=Traces(self.settings.limits.traces_max),
            log=logs.named("mesh.door", node=self.settings.name),
        )
        self._site = app.Doors(app.build(parts))
        lines.serve(parts, self.peers)

    def _topology(self) -> Topology:
        return self.topology

    def _follow_topology(self) -> None:
        """Let the doors follow the topology in force, and tell the others what is new."""
        self._tell()
        if self.takeover.current is self.topology:
            return
        self.topology, self._topology_text = self.takeover.current, self.takeover.current_text
        self.parts.topology, self.parts.topology_text = self.topology, self._topology_text
        self.parts.role_types = takes.of_roles(self.topology)
        self.parts.input_types = takes.of_pipelines(self.topology, self.parts.role_types)

    # ------------------------------------------------------------------ living

    async def _live(self) -> None:
        """Serve until told to stop, then end in order."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(task)
                    for task in (
                        self.membership.run(),
                        self._lag.run(),
                        self.duties.run(),
                        self.takeover.run(),
                        self._tell_load(),
                        follow(self.membership, self.peers),
                        self.router.run(),
                    )
                ]
                await self._stop.wait()
                await self._end()
                for task in tasks:
                    task.cancel()
        except* SetupError as errors:
            raise SetupError(*(p for e in _flat(errors) for p in e.problems)) from None

    # ------------------------------------------------------------------ news of this node

    def _facts(self) -> Facts:
        settings = self.settings
        return Facts(
            name=settings.name,
            http=settings.advertise.http or self._reachable_http(),
            roles=self.local.ready,
            topology_epoch=self.takeover.next.mesh.epoch,
            topology_digest=self.takeover.digest,
            busy=self.elastic.busy,
            idle=self.elastic.idle,
            load=round(self.local.waiting_s(), 3),
            weight=settings.compute.weight,
            draining=self._is_leaving,
            zone=settings.compute.zone,
            memory_mb=settings.compute.memory_mb,
            labels=settings.compute.labels,
        )

    def _reachable_http(self) -> str:
        """Return the address of the HTTP door; a wildcard means nothing to others."""
        host, _, port = self.http_address.rpartition(":")
        if host in ("0.0.0.0", "[::]"):
            host = self.membership.me.address.rpartition(":")[0]
        return f"{host}:{port}"

    def _tell(self) -> None:
        """Tell the others what has changed here."""
        self._told = self._facts()
        self.membership.tell(self._told)

    async def _tell_load(self) -> None:
        while True:
            await asyncio.sleep(LOAD_EVERY_S)
            self._look()
            if abs(self.local.waiting_s() - self._told.load) > LOAD_STEP_S:
                self._tell()

    def _look(self) -> None:
        """Tell the others at once when an elastic role became busy or idle."""
        if self.elastic.look():
            self._tell()

    # ------------------------------------------------------------------ ending

    async def _end(self) -> None:
        """Say so, refuse what is new, finish what is here, and say goodbye."""
        self.log.info("node.draining", active=self.admission.active, serving=self.serving.active)
        until_s = time.monotonic() + self.settings.limits.drain_s
        self._is_leaving = True
        self._tell()
        await self.duties.hand_over(until_s)
        self.admission.drain()
        is_idle = await self.admission.wait_idle(max(0.0, until_s - time.monotonic()))
        is_idle &= await self.serving.wait_idle(max(0.0, until_s - time.monotonic()))
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.membership.leave()
        except TimeoutError:
            self.log.warning("node.leave_timed_out")
        self.log.info("node.left", finished=is_idle)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self.log.warning("node.stopped_at_once")
            logging.shutdown()
            os._exit(1)  # asked twice: whatever is unfinished stays so
        self.stop()


def _flat(group: BaseExceptionGroup[SetupError]) -> list[SetupError]:
    found: list[SetupError] = []
    for error in group.exceptions:
        found += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found

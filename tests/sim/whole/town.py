"""Whole nodes in one virtual time: the world of membership, with a process on every host.

Shell. What `tests.sim.world` does to datagrams, `whole.links` does to connections; a pause stops
the process with its gossip, a crash ends both.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any
from unittest.mock import patch

from mesh.flow import deadlines, doubt, local
from mesh.gossip.events import Kind, Notice
from mesh.gossip.swim import Swim
from mesh.net import calls, peer, peers, serving
from mesh.policy.breaker import State
from mesh.settings.schema import Limits
from mesh.settings.topology import Batch, Mesh, Pipeline, Role, Stage, Topology
from tests.sim.whole.clients import Crowd
from tests.sim.whole.laws import Flow
from tests.sim.whole.links import Links
from tests.sim.whole.loops import HostSocket, HostTime, Ordered, ordered_names
from tests.sim.whole.process import Process
from tests.sim.whole.roles import SimLane
from tests.sim.whole.watch import Watch, watched
from tests.sim.world import RETRANSMIT_S, Host, Weather, World

KINDS = {"work": "Work", "look": "Look", "charge": "Charge", "tell": "Tell", "spell": "Spell"}
PIPELINES = {  # name: its stages' roles
    "work": ("work",),
    "both": ("look", "work"),
    "charge": ("charge",),
    "tell": ("tell",),
    "spell": ("spell",),
}
TALES_MAX = 2000
LOSSY = 0.05  # so many lost datagrams may cost a healthy node its name


@contextmanager
def played() -> Iterator[None]:
    """Let production modules read the clocks of simulated hosts, and compute in virtual time."""
    with ExitStack() as stack:
        for module in (peers, peer, calls, serving):
            stack.enter_context(patch.object(module, "time", HostTime))
        for module in (peers, serving, doubt, deadlines):
            stack.enter_context(patch.object(module, "set", Ordered, create=True))
        stack.enter_context(patch.object(doubt, "frozenset", ordered_names, create=True))
        stack.enter_context(patch.object(local, "open_lane", SimLane))
        stack.enter_context(patch.object(peers, "_bind", HostSocket))
        watched(stack)
        yield


class Town(World):
    """Hosts with processes, and clients before them.

    Args:
        seed: decides everything that is left to chance.
        names: of the hosts.
        replicas: of every role.
        weather: of the links.
        limits: of every node.
        patience_s: how long a client waits for its answer.
        pace_s: the mean time between two clients.
        mix: the pipelines that clients ask, drawn evenly.
        unasked: the numbers of clients who do not come.
    """

    def __init__(
        self,
        seed: int,
        names: list[str],
        *,
        replicas: int,
        weather: Weather | None = None,
        limits: Limits | None = None,
        patience_s: float = 15.0,
        pace_s: float = 0.3,
        mix: tuple[str, ...] = tuple(PIPELINES),
        unasked: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(seed, names, weather=weather)
        self.chance = Random(f"{seed}/streams")
        self.limits = limits or Limits()
        self.replicas = replicas
        self.topologies: dict[str, Topology] = {}  # by text
        self.texts: list[str] = []
        self.publish(replicas)
        self.kept: dict[str, str] = {}  # by host: the text that its file has
        self.links = Links(self)
        self.processes: dict[str, Process] = {}
        self.off: set[str] = set()  # addresses of machines without power
        self.lags: dict[str, float] = {}  # extra delay of a host's links, seconds
        self.wall_jumps_s: dict[str, float] = {}
        self.cut_off: set[str] = set()  # hosts whose doors may lack the others
        self.touched: set[str] = set()  # hosts that others may take for dead, at some time
        self.is_steady = self.is_orderly = False  # one fault at a time; none that breaks a call
        self.patience_s = patience_s
        self.tales: list[tuple[float, str]] = []
        self.on_tale: Callable[[float, str], None] = lambda at_s, tale: None
        self.laws_of_flow, self.watch = Flow(self), Watch(self)
        self.crowd = Crowd(self, pace_s, mix, unasked)

    def tell_tale(self, *words: object) -> None:
        """Keep a line for a person to read."""
        self.tales.append((self.now_s, " ".join(map(str, words))))
        del self.tales[:-TALES_MAX]
        self.on_tale(*self.tales[-1])

    def at(self, due_s: float, what: Callable[[], None]) -> None:
        """Do something at a moment: by a delay, equal moments could be rounded apart."""
        self._order += 1
        heapq.heappush(self._heap, (due_s, self._order, what))

    def run(self, seconds: float) -> None:
        """Let time pass; raise at the first law that breaks."""
        until_s = self.now_s + seconds
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, what = heapq.heappop(self._heap)
            self.counts["events"] += 1
            what()
            if self.laws_of_flow.broken:
                raise self.laws_of_flow.broken[0]
        self.now_s = until_s

    def publish(self, replicas: int, items_max: int = 4) -> str:
        """Write a newer topology; return its text."""
        text = f"epoch {len(self.texts) + 1}"
        self.texts.append(text)
        self.topologies[text] = topology(len(self.texts), replicas, items_max)
        return text

    @property
    def is_settled(self) -> bool:
        """Whether every node runs, sees all others, and serves what it should."""
        return (
            len(self.processes) == len(self.hosts)
            and all(process.is_ready for process in self.processes.values())
            and self.is_converged()
            and all(self._is_served(process) for process in self.processes.values())
        )

    def _is_served(self, process: Process) -> bool:
        text = self.texts[-1]
        wanted = self.topologies[text]
        if process.takeover.current is not wanted:
            return False
        return all(
            len(process.directory.endpoints(name)) == min(int(role.replicas), len(self.hosts))  # type: ignore[call-overload]
            for name, role in wanted.roles.items()
        )

    # -- hosts ------------------------------------------------------------------------

    def start(self, name: str, **how: Any) -> None:
        """Start a host's node, or start it again."""
        old = self.hosts[name].address
        super().start(name, **how)
        host = self.hosts[name]
        self.off.discard(host.address)
        if host.address != old:
            self.off.add(old)
        if host.machine is not None:
            self.processes[name] = Process(self, host)

    def crash(self, name: str, *, is_silent: bool = False) -> None:
        """Kill a host's process; silent: its machine loses power."""
        process = self.processes.pop(name, None)
        super().crash(name)
        if is_silent:
            self.off.add(self.hosts[name].address)
        if process is not None:
            process.die(is_silent=is_silent)
            self.tell_tale(process.label, "dies", "silently" if is_silent else "")

    def pause(self, name: str, *, is_deaf: bool = False) -> None:
        """Stop a host's process."""
        super().pause(name, is_deaf=is_deaf)
        if name in self.processes:
            process = self.processes[name]
            process.is_paused, process.paused_s = True, self.now_s

    def resume(self, name: str) -> None:
        """Let it run again."""
        super().resume(name)
        if name in self.processes:
            process = self.processes[name]
            process.is_paused, process.paused_s = False, self.now_s
            self.arm(process)

    def heal(self) -> None:
        """Undo every cut; what was stuck is sent again."""
        super().heal()
        self.links.release()

    def drain(self, name: str) -> None:
        """Ask a node to leave in order."""
        if name in self.processes:
            self.processes[name].post(self.processes[name].leave)

    def ended(self, process: Process) -> None:
        """Note that a process has come to its orderly end."""
        self.later(0.0, lambda: self._gone(process))

    def _gone(self, process: Process) -> None:
        if self.processes.get(process.name) is process:
            self.crash(process.name)

    def close(self) -> None:
        """End every process."""
        for name in list(self.processes):
            self.processes.pop(name).die(is_silent=True)

    # -- processes --------------------------------------------------------------------

    def arm(self, process: Process) -> None:
        """See to it that a process turns when it wants to."""
        due_s = None if process.is_dead or process.is_paused else process.loop.due_s()
        if due_s is None:
            return
        due_s = max(self.now_s, process.host.global_s(due_s))
        if process.armed_s is None or due_s < process.armed_s:
            process.armed_s = due_s
            self.later(due_s - self.now_s, lambda: self._turn(process, due_s))

    def _turn(self, process: Process, due_s: float) -> None:
        if process.is_dead or process.armed_s != due_s:
            return
        process.armed_s = None
        if not process.is_paused:
            process.loop.turn()
            self.arm(process)

    def is_wary(self, name: str) -> bool:
        """Whether a node's door still leaves others alone that it could not reach lately."""
        process = self.processes.get(name)
        edges = process.router._reach.edges.values() if process else ()
        breakers = [edge.breaker for edge in edges]
        return process is not None and any(
            one.state is State.HALF_OPEN or one.try_at_s(0.0) > process.loop.time()
            for one in breakers
        )

    def task_failed(self, what: str) -> None:
        """A task died of something that nobody took."""
        self.laws_of_flow.law(False, "T1 no task fails unseen", what)

    # -- gossip -----------------------------------------------------------------------

    def act(self, host: Host, machine: Swim, actions: list[Any]) -> None:
        """Perform, and tell the process what is new."""
        super().act(host, machine, actions)
        process = self.processes.get(host.name)
        seat = getattr(process, "membership", None)
        if seat is not None and seat._machine is machine and seat.has_news:
            seat.changed_s = self.now_s
            process.post(seat.wake)  # type: ignore[union-attr]

    def _notice(self, host: Host, notice: Notice) -> None:
        if notice.kind is not Kind.UPDATED:
            self.laws_of_flow.unrest()
            self.tell_tale(host.name, notice.kind.value, notice.member.id)
        if notice.kind is Kind.DIED and self.weather.loss < LOSSY:
            involved = {host.name, notice.member.facts.name}
            caused = bool(involved & self.touched)
            self.laws_of_flow.law(caused, "M1 nobody is declared dead without cause", *involved)
        if notice.kind is not Kind.GONE:
            super()._notice(host, notice)
            return
        self.counts[notice.kind.value] += 1
        self.notices.append((self.now_s, host.name, notice))
        self.on_notice(host.name, notice)
        World.crash(self, host.name)  # gossip has ended; its process ends in its own time
        process = self.processes.get(host.name)
        if process is not None:
            process.post(process.membership.gone.set)

    # -- links ------------------------------------------------------------------------

    def stream_delay_s(self, *processes: Process) -> float:
        """Return what a segment takes: TCP loses nothing, it is only late."""
        weather = self.weather
        delay_s = weather.latency_s + self.chance.random() * weather.jitter_s
        while self.chance.random() < weather.loss:
            delay_s += RETRANSMIT_S
        return delay_s + sum(self.lags.get(process.name, 0.0) for process in processes)

    def is_stuck(self, source: str, target: str) -> bool:
        """Whether nothing gets from one host to another now."""
        return (source, target) in self.blocked or (source, target) in self.clogged

    def is_off(self, address: str) -> bool:
        """Whether the machine at an address is without power."""
        return address in self.off

    def is_host(self, address: str) -> bool:
        """Whether there is a machine at an address."""
        return address in self._at

    def process_at(self, address: str) -> Process | None:
        """Return the process that listens at an address."""
        host = self._at.get(address)
        process = self.processes.get(host.name) if host else None
        return process if process is not None and process.is_listening else None


def topology(epoch: int, replicas: int, items_max: int) -> Topology:
    """Return what the mesh of the simulator does."""
    where = "tests.sim.whole.roles"
    roles = {
        name: Role(
            kind=f"{where}:{kind}",
            replicas=replicas,
            route="ring" if name == "look" else "least-loaded",
            key="text" if name == "look" else "",
            batch=Batch(items_max=items_max),
        )
        for name, kind in KINDS.items()
    }
    pipelines = {
        name: Pipeline(("text",), ("said",), tuple(_stages(stages)))
        for name, stages in PIPELINES.items()
    }
    return Topology(mesh=Mesh(name="sim", epoch=epoch), roles=roles, pipelines=pipelines)


def _stages(roles: tuple[str, ...]) -> Iterator[Stage]:
    field = "text"
    for at, role in enumerate(roles):
        given = "said" if at == len(roles) - 1 else f"text{at}"
        yield Stage(role, role, {"text": field}, {"said": given})
        field = given

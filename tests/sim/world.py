"""A network of membership machines in virtual time, with everything that goes wrong in one.

The machines are the production ones; only sockets and clocks are played. One heap
of events, chance split by concern, no set iterated: equal seeds give equal runs.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mesh.errors import RemoteProtocolError
from mesh.gossip import events as ev
from mesh.gossip.member import Facts, Member, News, Status
from mesh.gossip.packets import DATAGRAM_BYTES_MAX, Codec, Packet, Sync
from mesh.gossip.rules import Rules
from mesh.gossip.seal import Seal
from mesh.gossip.swim import Swim
from mesh.machine import TICK
from tests.sim.laws import Laws

LABEL = "sim"
BACKLOG_MAX = 2000  # datagrams that a paused host's socket buffer holds
SYNC_TIMEOUT_S = 5.0
REFUSED_S, CONNECT_TIMEOUT_S = 0.001, 1.0
RETRANSMIT_S = 0.2  # what TCP waits before it sends a lost segment again


@dataclass
class Weather:
    """What every link does to datagrams; jitter above latency also reorders."""

    latency_s: float = 0.001
    jitter_s: float = 0.001
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0  # only with sealed packets: nothing else could notice


@dataclass
class Host:
    """One machine of the world, running a node or not."""

    name: str
    address: str
    id: str
    clock_offset_s: float
    clock_rate: float
    boot: int = 1
    machine: Swim | None = None
    codec: Codec | None = None
    armed_s: float | None = None
    is_paused: bool = False
    is_deaf: bool = False
    backlog: list[Callable[[], None]] = field(default_factory=list)
    known: tuple[str, ...] = ()  # what its identity file remembers
    generation: int = 0  # grows at each start, so that answers to an earlier life are dropped

    def local_s(self, now_s: float) -> float:
        return self.clock_offset_s + now_s * self.clock_rate

    def global_s(self, local_s: float) -> float:
        return (local_s - self.clock_offset_s) / self.clock_rate


class World:
    """Hosts, links between them, and the time."""

    def __init__(
        self,
        seed: int,
        names: list[str],
        *,
        rules: Rules | None = None,
        weather: Weather | None = None,
        machine: type[Swim] = Swim,
        wire: str = "objects",
        seeds: int = 2,
        is_checked: bool = True,
    ) -> None:
        """Build hosts; none runs yet.

        `wire`: "objects" hands packets over as they are, "plain" and "sealed" as bytes.
        `seeds`: how many of the first hosts everyone is told to ask.
        """
        self.now_s, self.seed, self.rules = 0.0, seed, rules or Rules()
        self.weather, self.wire, self.is_checked = weather or Weather(), wire, is_checked
        self._machine = machine
        self._net, self._clocks = Random(f"{seed}/net"), Random(f"{seed}/clocks")
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.counts: Counter[str] = Counter()
        self.notices: list[tuple[float, str, ev.Notice]] = []
        self.on_notice: Callable[[str, ev.Notice], None] = lambda host, notice: None
        self.blocked: set[tuple[str, str]] = set()
        self.clogged: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self.laws = Laws()
        self.bytes_sent = 0
        self.is_udp_blocked = False
        self.hosts = {name: self._host(name) for name in names}
        self._at = {host.address: host for host in self.hosts.values()}
        # Seeds are names, as of a DNS: they lead to wherever that host is now.
        self.seed_addresses = tuple(f"@{name}" for name in names[:seeds])

    def _host(self, name: str) -> Host:
        offset_s, rate = self._clocks.uniform(0, 1e6), self._clocks.uniform(0.9998, 1.0002)
        return Host(name, f"{name}:1", name, offset_s, rate)

    # -- running ----------------------------------------------------------------------

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now_s + delay_s, self._order, what))

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, what = heapq.heappop(self._heap)
            self.counts["events"] += 1
            what()
        self.now_s = until_s

    def run_until(
        self, condition: Callable[[], bool], seconds: float, step_s: float = 0.1
    ) -> float:
        """Run until `condition`, and return how long that took; fail after `seconds`."""
        since_s = self.now_s
        while not condition():
            assert self.now_s - since_s < seconds, f"not within {seconds} s; {self.views()}"
            self.run(step_s)
        return self.now_s - since_s

    # -- what hosts do ----------------------------------------------------------------

    def start(
        self,
        name: str,
        *,
        new_address: bool = False,
        new_id: bool = False,
        is_begun: bool = True,
    ) -> None:
        """Start a host's node, or start it again after `crash`."""
        host = self.hosts[name]
        assert host.machine is None
        host.generation += 1
        if new_address:
            del self._at[host.address]
            host.address = f"{name}:{host.generation}"
            self._at[host.address] = host
        if new_id:
            host.id = f"{name}{host.generation}"
        host.boot = max(host.boot + 1, int(self.now_s * 1000) + 1)
        known = () if new_id else host.known
        me = Member(host.id, host.boot, host.boot, Status.ALIVE, host.address, Facts(name))
        rng = Random(f"{self.seed}/{name}/{host.generation}")
        seal = Seal("secret", LABEL, host.id, host.boot, b"salt") if self.wire == "sealed" else None
        host.codec = Codec(LABEL, seal)
        host.machine = self._machine(LABEL, me, rng, self.rules, self.seed_addresses, known)
        host.armed_s, host.is_paused = None, False
        self.laws.begin(host.machine)
        if is_begun:
            self._handle(host, ev.Started())

    def start_all(self, spread_s: float = 0.0) -> None:
        for index, name in enumerate(self.hosts):
            self.later(spread_s * index, lambda name=name: self.start(name))
        self.run(spread_s * len(self.hosts))

    def start_acquainted(self) -> None:
        """Start everyone with everyone known, as after a while: joining is not the subject."""
        for name in self.hosts:
            self.start(name, is_begun=False)
        machines = [host.machine for host in self.running() if host.machine is not None]
        table = Sync(LABEL, "", 0, tuple(News(machine.me) for machine in machines))
        for host in self.running():
            others = tuple(news for news in table.news if news.member.id != host.id)
            self._handle(host, ev.SyncReceived(Sync(LABEL, "", 0, others)))
            self._handle(host, ev.Started())
        self.notices.clear()

    def crash(self, name: str) -> None:
        host = self.hosts[name]
        if host.machine is not None:
            others = (one.address for one in host.machine.members() if one.id != host.id)
            host.known = tuple(dict.fromkeys(others))
        host.machine, host.backlog, host.is_paused = None, [], False

    def pause(self, name: str, *, is_deaf: bool = False) -> None:
        """Stop a host; deaf: what arrives meanwhile finds its socket buffer full."""
        self.hosts[name].is_paused = True
        self.hosts[name].is_deaf = is_deaf

    def resume(self, name: str) -> None:
        """Let a host run again: first what arrived meanwhile, then its alarm, as the shell does."""
        host = self.hosts[name]
        host.is_paused = False
        backlog, host.backlog = host.backlog, []
        for what in backlog:
            what()
        if host.machine is not None and host.armed_s is not None:
            self._ring(host, host.generation, host.armed_s)

    def leave(self, name: str) -> None:
        host = self.hosts[name]
        if host.machine is not None:
            self._handle(host, ev.LeaveAsked())

    def tell(self, name: str, facts: Facts) -> None:
        host = self.hosts[name]
        if host.machine is not None and not host.is_paused:
            self._handle(host, ev.FactsTold(facts))

    def cut(self, sources: list[str], targets: list[str], *, both: bool = True) -> None:
        """Lose everything from `sources` to `targets`, and back unless one-way."""
        for a in sources:
            for b in targets:
                if a != b:
                    self.blocked.add((a, b))
                    if both:
                        self.blocked.add((b, a))

    def clog(self, source: str, target: str) -> None:
        """Hold what travels over a link."""
        self.clogged.setdefault((source, target), [])

    def heal(self) -> None:
        """Undo every cut, and release what was held, in one burst."""
        self.blocked.clear()
        clogged, self.clogged = self.clogged, {}
        for held in clogged.values():
            for what in held:
                self.later(0.0, what)

    def disturb(self) -> None:
        """Let strangers talk to everyone; S10: nothing of it may change anything."""
        for host in self.running():
            assert host.codec is not None
            assert host.machine is not None
            if host.is_paused:
                continue
            before = host.machine.sync(0.0), host.machine.version
            me = host.machine.me
            stranger = Packet("other", "zz", 1, 1, rumours=(News(me.seen_as(Status.DEAD)),))
            for data in self._strange(host, stranger):
                self._arrive(host, host.address, data, "zz:1")
            assert before == (host.machine.sync(0.0), host.machine.version)

    def _strange(self, host: Host, stranger: Packet) -> list[Packet | bytes]:
        if self.wire == "objects":
            return [stranger]
        own = Packet(LABEL, "zz", 1, 1, rumours=stranger.rumours)
        garbage = self._net.randbytes(self._net.randint(0, 60))
        found: list[Packet | bytes] = [
            garbage,
            b"M" + garbage,
            b"S" + garbage,
            Codec("other").encode(stranger),
        ]
        if self.wire == "sealed":
            wrong = Seal("wrong", LABEL, "zz", 1, b"salt")
            right = Seal("secret", LABEL, "zz", 1, b"salt")
            once = Codec(LABEL, right).encode(Packet("other", "zz", 1, 1))
            found += [Codec(LABEL).encode(own), Codec(LABEL, wrong).encode(own), once, once]
        return found

    # -- the machine ------------------------------------------------------------------

    def _handle(self, host: Host, event: Any) -> None:
        machine = host.machine
        if machine is None:
            return
        local_s = host.local_s(self.now_s)
        self.act(host, machine, machine.handle(event, local_s))
        if event is TICK:
            wakeup_s = machine.wakeup_s()
            assert wakeup_s is None or wakeup_s > local_s, "would spin"

    def act(self, host: Host, machine: Swim, actions: list[ev.Action]) -> None:
        """Perform what a machine asked for."""
        for action in actions:
            match action:
                case ev.SendPacket(address, packet):
                    self._send(host, address, packet)
                case ev.StartSync(address):
                    self._sync(host, address)
                case ev.ProbeStream():
                    self._probe(host, action)
                case ev.Notice():
                    self._notice(host, action)
        self.laws.check(machine)
        if self.is_checked:
            machine.check()  # looks at every entry: too slow for a thousand nodes
        if host.machine is machine:
            self._arm(host)

    def _arm(self, host: Host) -> None:
        assert host.machine is not None
        due_s = host.machine.wakeup_s()
        if due_s != host.armed_s:
            host.armed_s = due_s
            if due_s is not None:
                generation = host.generation
                delay_s = max(0.0, host.global_s(due_s) - self.now_s)
                self.later(delay_s, lambda: self._ring(host, generation, due_s))

    def _ring(self, host: Host, generation: int, due_s: float) -> None:
        machine = host.machine
        is_stale = machine is None or host.generation != generation or host.armed_s != due_s
        if is_stale or host.is_paused:
            return
        local_s = max(due_s, host.local_s(self.now_s))
        if machine.wakeup_s() > local_s:
            host.armed_s = None
            self._arm(host)
            return
        self.act(host, machine, machine.handle(TICK, local_s))
        wakeup_s = machine.wakeup_s()
        assert wakeup_s is None or wakeup_s > local_s, "would spin"

    def _notice(self, host: Host, notice: ev.Notice) -> None:
        self.counts[notice.kind.value] += 1
        self.notices.append((self.now_s, host.name, notice))
        self.on_notice(host.name, notice)
        if notice.kind in (ev.Kind.GONE, ev.Kind.SUPERSEDED):
            self.crash(host.name)

    def _find(self, address: str) -> Host | None:
        if address.startswith("@"):
            return self.hosts[address[1:]]
        return self._at.get(address)

    # -- links ------------------------------------------------------------------------

    def _delay_s(self) -> float:
        return self.weather.latency_s + self._net.random() * self.weather.jitter_s

    def _send(self, host: Host, address: str, packet: Packet) -> None:
        self.counts["sent"] += 1
        target, weather = self._find(address), self.weather
        data = self._encoded(host, packet)
        # Every draw is made whatever its outcome, so that masking one fault moves no other.
        lost, twice, torn = (self._net.random() for _ in range(3))
        delays = [self._delay_s(), self._delay_s()]
        is_lost = self.is_udp_blocked or lost < weather.loss
        if target is None or is_lost or (host.name, target.name) in self.blocked:
            self.counts["lost"] += 1
            return
        if isinstance(data, bytes) and self.wire == "sealed" and torn < weather.corrupt:
            place = int(torn / weather.corrupt * len(data))
            data = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
            self.counts["corrupted"] += 1
        copies = 2 if twice < weather.duplicate else 1
        self.counts["duplicated"] += copies - 1
        source = host.address
        for delay_s in delays[:copies]:
            self._travel(host, target, delay_s, lambda: self._arrive(target, address, data, source))

    def _encoded(self, host: Host, packet: Packet) -> Packet | bytes:
        if self.wire == "objects":
            return packet
        assert host.codec is not None
        data = host.codec.encode(packet)
        assert len(data) <= DATAGRAM_BYTES_MAX, (len(data), packet)  # S9
        self.bytes_sent += len(data)
        return data

    def _travel(self, host: Host, target: Host, delay_s: float, what: Callable[[], None]) -> None:
        held = self.clogged.get((host.name, target.name))
        if held is not None:
            held.append(what)
        else:
            self.later(delay_s, what)

    def _arrive(self, target: Host, address: str, data: Packet | bytes, source: str) -> None:
        if target.machine is None or self._find(address) is not target:
            return
        if target.is_paused:
            if len(target.backlog) < BACKLOG_MAX and not target.is_deaf:
                target.backlog.append(lambda: self._arrive(target, address, data, source))
            return
        if isinstance(data, bytes):
            assert target.codec is not None
            try:
                data = target.codec.decode_packet(data)
            except RemoteProtocolError as error:
                self.counts[error.message] += 1
                return
        self._handle(target, ev.PacketReceived(data, source))

    # -- streams ----------------------------------------------------------------------

    def _stream_delay_s(self) -> float:
        """TCP loses nothing, it is only late."""
        delay_s = self._delay_s()
        while self._net.random() < self.weather.loss:
            delay_s += RETRANSMIT_S
        return delay_s

    def _request(
        self,
        host: Host,
        address: str,
        timeout_s: float,
        ask: Callable[[Swim], Any],
        done: Callable[[Any], None],
    ) -> None:
        """Call `ask` at the node at `address` and `done` with its answer, or with None."""
        generation, is_done = host.generation, [False]

        def finish(answer: Any) -> None:
            if is_done[0] or host.generation != generation or host.machine is None:
                return
            if host.is_paused:
                host.backlog.append(lambda: finish(answer))
                return
            is_done[0] = True
            done(answer)

        def arrive() -> None:
            target = self._find(address)
            if target is None or target.machine is None:
                self.later(REFUSED_S, lambda: finish(None))
            elif target.is_paused:
                target.backlog.append(arrive)
            elif not self._is_cut(host, target):
                answer = ask(target.machine)
                self._arm(target)
                self.later(self._stream_delay_s(), lambda: self._back(host, target, answer, finish))

        self.later(timeout_s, lambda: finish(None))
        if (target := self._find(address)) is None or not self._is_cut(host, target):
            self.later(2 * self._stream_delay_s(), arrive)

    def _back(self, host: Host, target: Host, answer: Any, finish: Callable[[Any], None]) -> None:
        if not self._is_cut(host, target):
            finish(answer)

    def _is_cut(self, a: Host, b: Host) -> bool:
        pair, back = (a.name, b.name), (b.name, a.name)
        return bool({pair, back} & (self.blocked | self.clogged.keys()))

    def _sync(self, host: Host, address: str) -> None:
        assert host.machine is not None
        mine = host.machine.sync(host.local_s(self.now_s))

        def ask(machine: Swim) -> Any:
            target = self._find(address)
            assert target is not None
            self.act(
                target, machine, machine.handle(ev.SyncReceived(mine), target.local_s(self.now_s))
            )
            return machine.sync(target.local_s(self.now_s))

        def done(theirs: Any) -> None:
            if theirs is not None and host.machine is not None:
                self._handle(host, ev.SyncReceived(theirs))
            self._handle(host, ev.SyncEnded(address, theirs.sender if theirs else ""))

        self._request(host, address, SYNC_TIMEOUT_S, ask, done)

    def _probe(self, host: Host, probe: ev.ProbeStream) -> None:
        def done(found: str | None) -> None:
            if found == probe.target:
                self._handle(host, ev.StreamProbeAnswered(probe.seq, probe.target))

        self._request(host, probe.address, probe.timeout_s, lambda machine: machine.me.id, done)

    # -- what is seen -----------------------------------------------------------------

    def running(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.machine is not None]

    def views(self) -> dict[str, str]:
        """Return one line per running host: whom it sees how."""
        return {
            host.name: " ".join(
                f"{member.id}{'+?x-'[member.status]}" for member in host.machine.members()
            )
            for host in self.running()
            if host.machine is not None
        }

    def is_converged(self) -> bool:
        """Whether every running node sees all running ones alive, as they are, and no other."""
        running = [host.machine for host in self.running() if host.machine is not None]
        truth = sorted((machine.me for machine in running), key=lambda member: member.id)
        return all(
            [member for member in machine.members() if member.is_present] == truth
            for machine in running
        )

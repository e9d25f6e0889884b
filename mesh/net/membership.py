"""Carries the membership machine's packets, syncs and alarms over real sockets.

Shell: of `mesh.gossip.swim`. It owns its UDP socket, because asyncio's datagram
transport reads one packet per turn of the loop: after a stall, alarms would then
ring while the answers they wait for lie unread. Here the socket is always read
empty before an alarm may ring. That is also why this shell does not use `drive`.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mesh.errors import MeshError, RemoteProtocolError, SetupError
from mesh.gossip import events as ev
from mesh.gossip.events import Kind
from mesh.gossip.member import Facts, Member, Status, check_facts
from mesh.gossip.packets import DATAGRAM_BYTES_MAX, LABEL_BYTES_MAX, Codec, Sync
from mesh.gossip.rules import Rules
from mesh.gossip.seal import SALT_BYTES, Seal
from mesh.gossip.swim import Swim
from mesh.machine import TICK
from mesh.net import address as address_of
from mesh.net.identity import Identity, load_identity, save_known
from mesh.net.names import Names
from mesh.observe.logs import named
from mesh.settings.schema import Gossip
from mesh.wire.messages import Answer, Call

SYNC_SERVICE, PING_SERVICE = "mesh/sync", "mesh/ping"
SYNC_TIMEOUT_S = 5.0  # a sync that takes longer is tried again with someone else
RECEIVE_BUFFER_BYTES = 2 << 20  # memberlist's: some 10,000 packets while the loop stands still
DRAIN_MAX = 20_000  # packets read in one go; a flood must not keep alarms from ringing for ever
SNAPSHOT_INTERVAL_S = 30.0

_log = named("mesh.membership")


class Peers(Protocol):
    """What this shell needs of `mesh.net.peers.Peers`."""

    def serve(self, service: str, handler: Callable[[Call, Any], Awaitable[Answer]]) -> None:
        """Let `handler` answer calls to `service`."""

    async def call(self, address: str, call: Call) -> Any:
        """Call the node at `address`."""


class Membership:
    """Who is in the mesh, as this node sees it."""

    def __init__(
        self,
        *,
        mesh_name: str,
        secret: str,
        settings: Gossip,
        listen: str,
        advertise: str,
        seeds: Iterable[str],
        facts: Facts,
        identity: Path | None,
        rng: random.Random,
        peers: Peers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to join; nothing is opened yet.

        Args:
            mesh_name: the label in every packet.
            secret: seals packets; empty: plain.
            settings: the node's gossip table.
            listen: "host:port" to which the TCP listener is bound; UDP uses the same.
            advertise: what others shall use instead, or "".
            seeds: addresses to ask, "host:port"; resolved again for ever.
            facts: what this node says about itself.
            identity: file that keeps the id, the boot epoch and known peers; None: not kept.
            rng: all chance of the protocol.
            peers: connections for syncs and for probes over TCP.
            clock: monotonic seconds.

        Raises:
            SetupError: facts too large for a rumour, a mesh name too long, an unreadable identity.
        """
        check_facts(facts)
        if len(mesh_name.encode()) > LABEL_BYTES_MAX:
            raise SetupError(f"mesh name {mesh_name!r}: at most {LABEL_BYTES_MAX} bytes")
        seeds = tuple(seeds)
        self._identity: Identity = load_identity(identity, rng, time.time_ns() // 1_000_000)
        self._identity_path = identity
        self._listen, self._peers, self._clock = listen, peers, clock
        address = advertise or address_of.reachable(listen, seeds)
        boot = self._identity.boot
        me = Member(self._identity.id, boot, boot, Status.ALIVE, address, facts)
        seal = Seal(secret, mesh_name, me.id, boot, os.urandom(SALT_BYTES)) if secret else None
        self._codec = Codec(mesh_name, seal)
        rules = _rules(settings, DATAGRAM_BYTES_MAX - self._codec.overhead_bytes)
        self._swim = Swim(mesh_name, me, rng, rules, seeds, self._identity.known)
        self._names = Names()
        self._dropped: Counter[str] = Counter()
        self._socket: socket.socket | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self._seen_version = self._swim.version
        self._gone = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None

    # -- what others see --------------------------------------------------------------

    @property
    def members(self) -> tuple[Member, ...]:
        """Everyone known, this node included, sorted by id; a new tuple after each change."""
        return self._swim.members()

    @property
    def me(self) -> Member:
        """This node."""
        return self._swim.me

    @property
    def version(self) -> int:
        """Grows with each change of `members`."""
        return self._swim.version

    async def wait_change(self, version: int) -> int:
        """Wait until `members` differs from what it was at `version`; return the new version."""
        while self._swim.version == version:
            await self._changed.wait()
        return self._swim.version

    def statistics(self) -> dict[str, Any]:
        """Return the machine's counts, and what this shell dropped by reason."""
        return {**self._swim.statistics(), "dropped": dict(self._dropped)}

    def tell(self, facts: Facts) -> None:
        """Say something new about this node; a changed load alone goes out once a second.

        Raises:
            SetupError: if the facts are too large; nothing was said then.
        """
        self._handle(ev.FactsTold(facts))

    # -- life -------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind UDP to the port of the TCP listener and answer to peers.

        Raises:
            SetupError: if the port is taken.
        """
        host, port = address_of.split(self._listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.setblocking(False)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            udp.bind((host, port))
        except OSError as error:
            udp.close()
            raise SetupError(f"UDP {self._listen}: cannot listen there: {error}") from error
        self._socket = udp
        self._peers.serve(SYNC_SERVICE, self._answer_sync)
        self._peers.serve(PING_SERVICE, self._answer_ping)

    async def run(self) -> None:
        """Take part until cancelled.

        Raises:
            SetupError: if another process runs with this node's identity.
        """
        assert self._socket is not None, "start() comes first"
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    loop.add_reader(self._socket.fileno(), self._on_readable)
                    self._handle(ev.Started())
                    self._spawn(self._save_snapshots())
                    await self._failure
                finally:
                    self._close(loop)
        except* MeshError as failures:
            raise failures.exceptions[0] from None

    async def leave(self) -> None:
        """Tell the others that this node goes; return when they know, after 2 s at most."""
        if self._tasks is None:
            return
        self._handle(ev.LeaveAsked())
        try:
            async with asyncio.timeout(self._swim.rules.leave_s + 0.1):
                await self._gone.wait()
        except TimeoutError:
            _log.warning("member.leave_unheard", node=self.me.facts.name)

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks = None
        if self._alarm is not None:
            self._alarm.cancel()
        if self._socket is not None:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:
            work.close()
            return
        self._tasks.create_task(work)

    # -- the machine ------------------------------------------------------------------

    def _handle(self, event: ev.Event) -> None:
        self._perform(self._swim.handle(event, self._clock()))
        self._arm()

    def _perform(self, actions: list[ev.Action]) -> None:
        for action in actions:
            match action:
                case ev.SendPacket():
                    self._send(action)
                case ev.StartSync(address):
                    self._spawn(self._sync(address))
                case ev.ProbeStream():
                    self._spawn(self._probe(action))
                case ev.Notice():
                    self._notice(action)
        if self._swim.version != self._seen_version:
            self._seen_version = self._swim.version
            self._changed.set()
            self._changed = asyncio.Event()

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due_s = self._swim.wakeup_s()
        if due_s is not None and self._tasks is not None:
            delay_s = max(0.0, due_s - self._clock())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self._on_alarm, due_s)

    def _on_alarm(self, due_s: float) -> None:
        self._drain()
        # A timer may fire one clock resolution early; a tick never does.
        self._perform(self._swim.handle(TICK, max(self._clock(), due_s)))
        self._arm()

    def _on_readable(self) -> None:
        self._drain()
        self._arm()

    def _drain(self) -> None:
        """Read and handle everything that has arrived."""
        for _ in range(DRAIN_MAX):
            if self._socket is None:
                return
            try:
                data, source = self._socket.recvfrom(65_536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # An ICMP error of an earlier send; it says nothing that silence would not.
                self._dropped["receive_error"] += 1
                continue
            self._take(data, source)

    def _take(self, data: bytes, source: tuple[Any, ...]) -> None:
        try:
            packet = self._codec.decode_packet(data)
        except RemoteProtocolError as error:
            self._dropped[error.message] += 1
            return
        event = ev.PacketReceived(packet, address_of.join(source))
        self._perform(self._swim.handle(event, self._clock()))

    def _send(self, action: ev.SendPacket) -> None:
        target = self._names.lookup(action.address)
        if target is None:
            self._dropped["unresolved"] += 1
        if self._names.is_stale(action.address):
            self._spawn(self._names.resolve(action.address))
        if target is None or self._socket is None:
            return
        try:
            self._socket.sendto(self._codec.encode(action.packet), target)
        except OSError:
            # As if lost on the way: full buffer, no route. The protocol lives with loss.
            self._dropped["send_error"] += 1

    def _notice(self, notice: ev.Notice) -> None:
        kind, member = notice.kind, notice.member
        if kind is Kind.GONE:
            self._gone.set()
        fields: dict[str, Any] = {"node": member.facts.name, "address": member.address}
        if notice.by:
            fields["by"] = [self._name_of(accuser) for accuser in notice.by]
        if notice.seconds:
            fields["stall_s"] = round(notice.seconds, 3)
        write = _log.warning if kind in _WARNINGS else _log.info
        if kind is Kind.UPDATED:
            write = _log.debug
        write(f"member.{kind.value}", **fields)
        if kind is Kind.SUPERSEDED and self._failure and not self._failure.done():
            what = f"another process runs with the identity in {self._identity_path}"
            rest = "if none does, a clock was ahead: remove the file to join as a new member"
            self._failure.set_exception(SetupError(f"{what}; {rest}"))

    def _name_of(self, member: str) -> str:
        found = (each.facts.name for each in self.members if each.id == member)
        return next(found, member)

    # -- over TCP ---------------------------------------------------------------------

    async def _sync(self, address: str) -> None:
        mine = self._codec.encode(self._swim.sync(self._clock()))
        call = Call(to=SYNC_SERVICE, fields={"state": mine}, deadline_ms=_ms(SYNC_TIMEOUT_S))
        theirs: Sync | None = None
        try:
            async with asyncio.timeout(SYNC_TIMEOUT_S):
                answered = await self._peers.call(address, call)
            theirs = self._decode_sync(answered.answer.fields)
        except (MeshError, TimeoutError) as error:
            _log.debug("member.sync_failed", address=address, reason=str(error))
        if theirs is not None and theirs.sender != self.me.id:  # a seed may be this very node
            self._handle(ev.SyncReceived(theirs))
        self._handle(ev.SyncEnded(address, theirs.sender if theirs else ""))

    async def _answer_sync(self, call: Call, reply: object) -> Answer:
        """Merge first, so that the answer already refutes what the caller got wrong."""
        theirs = self._decode_sync(call.fields)
        self._handle(ev.SyncReceived(theirs))
        return Answer({"state": self._codec.encode(self._swim.sync(self._clock()))})

    def _decode_sync(self, fields: dict[str, Any]) -> Sync:
        state = fields.get("state")
        try:
            if not isinstance(state, bytes | bytearray | memoryview):
                raise RemoteProtocolError("unreadable")
            return self._codec.decode_sync(bytes(state))
        except RemoteProtocolError as error:
            self._dropped[error.message] += 1
            raise

    async def _probe(self, probe: ev.ProbeStream) -> None:
        call = Call(
            to=PING_SERVICE, fields={"target": probe.target}, deadline_ms=_ms(probe.timeout_s)
        )
        try:
            async with asyncio.timeout(probe.timeout_s):
                answered = await self._peers.call(probe.address, call)
        except (MeshError, TimeoutError):
            return  # silence is what the machine takes for a "no"
        if answered.answer.fields.get("id") == probe.target:
            self._handle(ev.StreamProbeAnswered(probe.seq, probe.target))

    async def _answer_ping(self, call: Call, reply: object) -> Answer:
        return Answer({"id": self.me.id})

    async def _save_snapshots(self) -> None:
        """Keep addresses of others on disk, so that a restart finds them without its seeds."""
        if self._identity_path is None:
            return
        while True:
            await asyncio.sleep(SNAPSHOT_INTERVAL_S)
            await asyncio.to_thread(save_known, self._identity_path, self._identity, self._others())

    def _others(self) -> tuple[str, ...]:
        others = [m for m in self.members if m.id != self.me.id and m.status is not Status.LEFT]
        others.sort(key=lambda member: member.status)
        return tuple(dict.fromkeys(member.address for member in others))


_WARNINGS = {
    Kind.SUSPECTED,
    Kind.DIED,
    Kind.STALLED,
    Kind.STREAM_ONLY,
    Kind.NAME_TAKEN,
    Kind.SUPERSEDED,
}


def _rules(settings: Gossip, packet_bytes_max: int) -> Rules:
    """Return the machine's rules: the settings have the same names."""
    return Rules(**msgspec.structs.asdict(settings), packet_bytes_max=packet_bytes_max)


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))

"""Who is alive: SWIM with Lifeguard, as one machine.

Pure. `net.membership` and the simulator of `tests/sim` drive it.

    tick ──> ping one member ──ack──> fine
                  │ silent for probe_timeout_s
                  ├─> ask helpers to ping it ──> ack, or nack: "my own way works"
                  └─> ask it over TCP
                  │ silent until the next probe
                  └─> SUSPECT, a rumour ──refuted──> ALIVE, incarnation + 1
                            │ patience, shorter the more members agree
                            └─> DEAD, a rumour

Rules, in order of authority:
1. News wins by `Member.precedence` alone. Only a member raises its own incarnation.
2. A running node never counts itself dead: it refutes, unless it is leaving.
3. What another table calls dead comes in by sync as a suspicion, so that it can be refuted.
4. After a stall of this node's own loop, every deadline that others had to meet is moved.
5. Nothing is final: seeds, the dead and all ever known are asked again for ever.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from mesh.gossip import events as ev
from mesh.gossip.alarms import Alarms, Name
from mesh.gossip.events import Kind
from mesh.gossip.lifeguard import (
    Awareness,
    Patience,
    patience,
    retransmit_limit,
    sync_interval_s,
)
from mesh.gossip.member import ACCUSERS_MAX, Facts, Member, News, Status, check_facts
from mesh.gossip.packets import (
    DATAGRAM_BYTES_MAX,
    Ack,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Sync,
    packet_bytes,
)
from mesh.gossip.probe import Probe, Relay
from mesh.gossip.roster import Entry, Roster
from mesh.gossip.rumours import Rumours, news_bytes
from mesh.machine import Tick


@dataclass(frozen=True, slots=True)
class Rules:
    """How a mesh gossips. The first eight are settings, the rest have one good value."""

    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5  # p99 of a round trip, and room for a busy peer
    indirect_count: int = 3
    suspicion_mult: int = 4
    gossip_interval_s: float = 0.2
    gossip_fanout: int = 3
    sync_interval_s: float = 30.0
    rejoin_interval_s: float = 10.0
    packet_bytes_max: int = DATAGRAM_BYTES_MAX
    retransmit_mult: int = 4  # memberlist's LAN value
    nack_share: float = 0.8  # of the probe timeout: a nack must arrive before the verdict
    stall_s: float = 0.25  # an alarm later than this means that we stood still, not the others
    to_dead_s: float = 30.0  # the dead hear rumours so long, so that they can refute
    lonely_interval_s: float = 0.5  # how often seeds are asked while nobody else is known
    first_gossip_s: float = 0.01  # fresh news waits so long for company in its packet
    load_interval_s: float = 1.0  # a new load alone is told no more often
    leave_s: float = 2.0  # a leaving node stays no longer than this to tell so
    syncs_max: int = 8  # at once, as the answer to memberlist's pile-up (its issue 158)
    relays_max: int = 256  # pings for others in flight


class Swim:
    """The membership of one node. `handle`, `wakeup_s` and `check` as every machine."""

    def __init__(
        self,
        label: str,
        me: Member,
        rng: Random,
        rules: Rules | None = None,
        seeds: tuple[str, ...] = (),
        known: tuple[str, ...] = (),
    ) -> None:
        """Start as `me`, alive and alone.

        Args:
            label: the mesh's name; a packet of another mesh changes nothing.
            me: this node; `boot` is higher than in any earlier run of this id.
            rng: all chance.
            rules: how to gossip.
            seeds: addresses to ask first, and for ever.
            known: addresses of members of an earlier run.
        """
        assert me.status is Status.ALIVE
        check_facts(me.facts)
        self.label, self.me, self.rules = label, me, rules or Rules()
        self.version = 1
        self.counters: Counter[str] = Counter()
        self.accusations: deque[tuple[str, tuple[str, ...]]] = deque(maxlen=32)
        self.awareness = Awareness()
        self._seeds, self._known, self._rng = seeds, known, rng
        self._roster, self._rumours = Roster(rng), Rumours()
        self._alarms = Alarms()
        self._out: list[ev.Action] = []
        self._probe: Probe | None = None
        self._relays: dict[int, Relay] = {}
        self._syncs: set[str] = set()
        self._own_addresses = {me.address}
        self._seq = rng.randrange(1 << 20)
        self._last_gossip_s = self._last_told_s = float("-inf")
        self._untold: Facts | None = None
        self._is_superseded = False
        self._snapshot: tuple[int, tuple[Member, ...]] = (0, ())

    # -- the machine ------------------------------------------------------------------

    def handle(self, event: ev.Event | Tick, now_s: float) -> list[ev.Action]:
        """Take one event, return what must be done."""
        if self._is_superseded:
            return []
        match event:
            case Tick():
                self._tick(now_s)
            case ev.PacketReceived(packet, source):
                self._receive(packet, source, now_s)
            case ev.SyncReceived(sync):
                self._merge_sync(sync, now_s)
            case ev.SyncEnded(address, is_answered):
                self._syncs.discard(address)
                self.counters["syncs_answered" if is_answered else "syncs_failed"] += 1
            case ev.StreamProbeAnswered(seq, target):
                self._acked(seq, target, now_s, is_stream=True)
            case ev.FactsTold(facts):
                self._tell(facts, now_s)
            case ev.Started():
                self._start(now_s)
            case ev.LeaveAsked():
                self._leave(now_s)
        out, self._out = self._out, []
        return out

    def wakeup_s(self) -> float | None:
        """Return when the next alarm rings."""
        return None if self._is_superseded else self._alarms.next_s()

    @property
    def is_leaving(self) -> bool:
        """Whether this node has said that it goes."""
        return self.me.status is Status.LEFT

    @property
    def is_alone(self) -> bool:
        """Whether nobody else is known to be present."""
        return not self._roster.present

    def members(self) -> tuple[Member, ...]:
        """Return everyone known, this node included, sorted by id.

        A member that is gone is left out once a newer process carries its name.
        """
        if self._snapshot[0] != self.version:
            everyone = [self.me, *(entry.member for entry in self._roster)]
            newest: dict[str, int] = {}
            for member in everyone:
                if member.is_present:
                    name = member.facts.name
                    newest[name] = max(member.boot, newest.get(name, 0))
            shown = [
                member
                for member in everyone
                if member.is_present or member.boot >= newest.get(member.facts.name, 0)
            ]
            shown.sort(key=lambda member: member.id)
            self._snapshot = (self.version, tuple(shown))
        return self._snapshot[1]

    def sync(self, now_s: float) -> Sync:
        """Return everything this node knows, for a peer."""
        news = [News(self.me), *(entry.news(now_s) for entry in self._roster)]
        return Sync(self.label, self.me.id, self.me.boot, tuple(news))

    def statistics(self) -> dict[str, Any]:
        """Return counts since the start, and how this node feels."""
        return {
            "health_score": self.awareness.score,
            "members_present": len(self._roster.present) + 1,
            "members_known": len(self._roster) + 1,
            "rumours_waiting": len(self._rumours),
            "syncs_in_flight": len(self._syncs),
            "last_accusations": [
                {"member": member, "by": list(by)} for member, by in self.accusations
            ],
            **self.counters,
        }

    # -- time -------------------------------------------------------------------------

    def _start(self, now_s: float) -> None:
        self._alarms.set(("probe",), now_s + self._rng.uniform(0, self.rules.probe_interval_s))
        self._alarms.set(
            ("sync",), now_s + self._rng.uniform(0.5, 1) * self._sync_interval_s(now_s)
        )
        self._rejoin(now_s)

    def _tick(self, now_s: float) -> None:
        due_s = self.wakeup_s()
        if due_s is not None and now_s - due_s > self.rules.stall_s:
            self._notice_stall(now_s - due_s)
        while (name := self._alarms.pop_due(now_s)) is not None:
            self._ring(name, now_s)

    def _ring(self, name: Name, now_s: float) -> None:
        match name:
            case ("probe",):
                self._next_probe(now_s)
            case ("indirect",):
                self._probe_indirectly(now_s)
            case ("relay", seq):
                self._give_up_relay(int(seq), now_s)
            case ("suspicion", member):
                self._declare_dead(member, now_s)
            case ("gossip",):
                self._gossip(now_s)
            case ("sync",):
                self._sync_with_anyone(now_s)
            case ("rejoin",):
                self._rejoin(now_s)
            case ("tell",):
                self._tell_now(now_s)
            case ("leave",):
                self._finish_leaving()

    def _notice_stall(self, late_s: float) -> None:
        """Others had no chance to be heard while we stood still."""
        self._alarms.shift(("probe", "indirect", "relay", "suspicion"), late_s)
        for entry in self._roster:
            if entry.member.status is Status.SUSPECT:
                entry.suspected_s += late_s
        self.awareness.adjust(max(1, int(late_s)))
        self.counters["stalls"] += 1
        self._out.append(ev.Notice(Kind.STALLED, self.me, seconds=late_s))

    def _size(self, now_s: float) -> int:
        """How many members count in the formulas: all but those who are long gone."""
        gone = self._roster.gone_since(now_s - self.rules.to_dead_s)
        return 1 + len(self._roster.present) + len(gone)

    def _patience(self, now_s: float) -> Patience:
        rules = self.rules
        return patience(self._size(now_s), rules.suspicion_mult, rules.probe_interval_s)

    def _sync_interval_s(self, now_s: float) -> float:
        return sync_interval_s(self.rules.sync_interval_s, self._size(now_s))

    # -- packets ----------------------------------------------------------------------

    def _receive(self, packet: Packet, source: str, now_s: float) -> None:
        if packet.label != self.label:
            self.counters["foreign"] += 1
            return
        if packet.sender == self.me.id:
            self._own_address(packet.boot, source)
            return
        for news in packet.rumours:
            self._merge(news, now_s)
        if self._is_superseded:
            return
        owed = self._owed(packet, now_s)
        is_answered = False
        for message in packet.messages:
            is_answered |= self._take_message(message, packet, source, owed or (), now_s)
        if owed is not None and not is_answered:
            entry = self._roster.get(packet.sender)
            address = entry.member.address if entry else source
            self._send(address, packet.sender, (), now_s, owed)

    def _own_address(self, boot: int, source: str) -> None:
        """We hear ourselves: a seed under another name, or a copy of our identity."""
        if boot > self.me.boot:
            self._superseded()
        elif boot == self.me.boot and len(self._own_addresses) < 64:
            self._own_addresses.add(source)

    def _owed(self, packet: Packet, now_s: float) -> tuple[News, ...] | None:
        """Return what the sender must hear, or None if we agree about each other.

        An empty answer still tells, in its head, which version of the sender we know.
        """
        owed: list[News] = []
        entry = self._roster.get(packet.sender)
        is_behind = (packet.seen_boot, packet.seen_incarnation) < self.me.version
        if is_behind:
            owed.append(News(self.me))
        said = (packet.boot, packet.incarnation)
        known = entry.member if entry else None
        if known and known.status in (Status.SUSPECT, Status.DEAD) and known.version >= said:
            assert entry is not None
            owed.append(entry.news(now_s))
        is_news_to_us = known.version < said if known else not self._roster.is_full
        return tuple(owed) if owed or is_news_to_us else None

    def _take_message(
        self, message: Message, packet: Packet, source: str, owed: tuple[News, ...], now_s: float
    ) -> bool:
        """Act on one message; return whether that sent an answer to the packet's sender."""
        match message:
            case Ping(seq, target) if target in ("", self.me.id):
                self._send(source, packet.sender, (Ack(seq, self.me.id),), now_s, owed)
                return True
            case Ping():
                self.counters["pings_for_others"] += 1
            case PingRequest(seq, target, address):
                self._relay(seq, target, address, packet.sender, source, now_s)
            case Ack(seq, target):
                if seq in self._relays:
                    self._relay_acked(seq, target, packet.sender, now_s)
                else:
                    self._acked(seq, target, now_s)
            case Nack(seq, target):
                if self._probe is not None:
                    self._probe.take_nack(seq, target)
        return False

    def _send(
        self,
        address: str,
        to: str,
        messages: tuple[Message, ...],
        now_s: float,
        owed: tuple[News, ...] = (),
    ) -> None:
        """Send `messages`, what is owed to the receiver, and as many rumours as fit."""
        entry = self._roster.get(to)
        seen = entry.member.version if entry else (0, 0)
        packet = Packet(self.label, self.me.id, *self.me.version, *seen, messages)
        if owed or self._rumours:
            packet = msgspec.structs.replace(packet, rumours=self._cargo(packet, owed, now_s))
        self.counters["packets_sent"] += 1
        self._out.append(ev.SendPacket(address, packet))

    def _cargo(self, packet: Packet, owed: tuple[News, ...], now_s: float) -> tuple[News, ...]:
        room = self.rules.packet_bytes_max - packet_bytes(packet) - 2  # the list's longer head
        cargo = []
        for news in owed:
            size = news_bytes(news)
            if size <= room:
                cargo.append(news)
                room -= size
        if self._rumours:
            limit = retransmit_limit(self._size(now_s), self.rules.retransmit_mult)
            cargo += self._rumours.take(room, limit, [news.member.id for news in cargo])
        return tuple(cargo)

    # -- probing ----------------------------------------------------------------------

    def _next_probe(self, now_s: float) -> None:
        if self._probe is not None:
            self._conclude(self._probe, now_s)
            self._probe = None
        interval_s = self.awareness.scaled_s(self.rules.probe_interval_s)
        self._alarms.set(("probe",), now_s + interval_s)
        self._roster.forget(now_s)
        entry = self._roster.next_to_probe()
        if entry is not None:
            self._begin_probe(entry, now_s, now_s + interval_s)

    def _begin_probe(self, entry: Entry, now_s: float, until_s: float) -> None:
        self._seq += 1
        member = entry.member
        self._probe = Probe(self._seq, member, now_s, until_s)
        self._alarms.set(("indirect",), now_s + self.rules.probe_timeout_s)
        self.counters["probes"] += 1
        # Who is suspected hears it from everyone who probes it: Lifeguard's buddy system.
        buddy = (entry.news(now_s),) if member.status is Status.SUSPECT else ()
        self._send(member.address, member.id, (Ping(self._seq, member.id),), now_s, buddy)

    def _probe_indirectly(self, now_s: float) -> None:
        probe = self._probe
        if probe is None:
            return
        target = probe.member
        for helper in self._helpers(target):
            request = PingRequest(probe.seq, target.id, target.address)
            self._send(helper.address, helper.id, (request,), now_s)
            probe.asked += 1
        timeout_s = (self._alarms.at_s(("probe",)) or probe.until_s) - now_s
        self._out.append(ev.ProbeStream(probe.seq, target.id, target.address, timeout_s))

    def _helpers(self, target: Member) -> list[Member]:
        return self._roster.sample(
            self.rules.indirect_count,
            lambda member: member.status is Status.ALIVE and member.id != target.id,
        )

    def _acked(self, seq: int, target: str, now_s: float, *, is_stream: bool = False) -> None:
        probe = self._probe
        if probe is None or (seq, target) != (probe.seq, probe.member.id):
            return  # late: the verdict is spoken, and what refutes it is the member's own word
        self._probe = None
        self._alarms.clear(("indirect",))
        self.awareness.adjust(-1)
        if is_stream:
            self.counters["stream_only"] += 1
            self._out.append(ev.Notice(Kind.STREAM_ONLY, probe.member))

    def _conclude(self, probe: Probe, now_s: float) -> None:
        """Nobody reached the target: believe it as far as our own senses can be trusted."""
        self.counters["probes_failed"] += 1
        self.awareness.adjust(probe.missing if probe.asked else 1)
        entry = self._roster.get(probe.member.id)
        if entry is None or entry.member.version != probe.member.version:
            return  # it has spoken since
        if entry.member.is_present:
            news = News(entry.member.seen_as(Status.SUSPECT), (self.me.id,))
            self._merge(news, now_s)

    def _relay(
        self, seq: int, target: str, address: str, origin: str, source: str, now_s: float
    ) -> None:
        if len(self._relays) >= self.rules.relays_max:
            self.counters["relays_refused"] += 1
            return
        self._seq += 1
        self._relays[self._seq] = Relay(seq, target, origin, source)
        nack_s = now_s + self.rules.nack_share * self.rules.probe_timeout_s
        self._alarms.set(("relay", str(self._seq)), nack_s)
        self._send(address, target, (Ping(self._seq, target),), now_s)

    def _relay_acked(self, seq: int, target: str, sender: str, now_s: float) -> None:
        relay = self._relays[seq]
        if target != relay.target or sender != target:
            return  # another process listens at the address that we were given
        del self._relays[seq]
        self._alarms.clear(("relay", str(seq)))
        self._send(relay.source, relay.origin, (Ack(relay.seq, relay.target),), now_s)

    def _give_up_relay(self, seq: int, now_s: float) -> None:
        relay = self._relays[seq]
        if relay.is_nacked:
            del self._relays[seq]
            return
        relay.is_nacked = True  # a late ack is still worth passing on
        self._alarms.set(("relay", str(seq)), now_s + self.rules.probe_interval_s)
        self._send(relay.source, relay.origin, (Nack(relay.seq, relay.target),), now_s)

    # -- news -------------------------------------------------------------------------

    def _merge(self, news: News, now_s: float, *, is_quiet: bool = False) -> None:
        """Take in one piece of news; pass it on if it was new, unless `is_quiet`."""
        member = news.member
        if member.id == self.me.id:
            self._hear_about_me(news, now_s)
            return
        entry = self._roster.get(member.id)
        if entry is None:
            if not self._roster.is_full:
                self._accept(None, news, now_s, is_quiet or not member.is_present)
        elif member.precedence > entry.member.precedence:
            self._accept(entry, news, now_s, is_quiet)
        elif member.precedence == entry.member.precedence:
            self._add_accusers(entry, news.accusers, now_s)

    def _accept(self, entry: Entry | None, news: News, now_s: float, is_quiet: bool) -> None:
        old, new = entry.member if entry else None, news.member
        was_alone = self.is_alone
        entry = self._roster.put(new, now_s, news.gone_s)
        entry.accusers = () if new.status in (Status.ALIVE, Status.LEFT) else news.accusers
        entry.is_hasty = False
        self.version += 1
        if new.status is Status.SUSPECT:
            entry.suspected_s = now_s
            self._set_suspicion(entry, now_s)
            self._maybe_volunteer(entry, now_s)
        else:
            self._alarms.clear(("suspicion", new.id))
        if not is_quiet:
            self._spread(News(new, entry.accusers), now_s)
        self._notice_change(old, entry)
        if was_alone and new.is_present and not is_quiet:
            self._start_sync(new.address)
        if new.is_present and (old is None or old.boot < new.boot):
            self._suspect_namesakes(new, now_s)

    def _notice_change(self, old: Member | None, entry: Entry) -> None:
        new = entry.member
        was_present = old is not None and old.is_present
        match new.status:
            case Status.SUSPECT:
                self._accused(new, entry.accusers)
                self._out.append(ev.Notice(Kind.SUSPECTED, new, entry.accusers))
            case Status.ALIVE if old is None or not was_present or old.boot != new.boot:
                self._out.append(ev.Notice(Kind.JOINED, new))
            case Status.ALIVE:
                self._out.append(ev.Notice(Kind.UPDATED, new))
            case Status.DEAD if was_present:
                self.counters["deaths"] += 1
                self._out.append(ev.Notice(Kind.DIED, new, entry.accusers))
            case Status.LEFT if was_present:
                self._out.append(ev.Notice(Kind.LEFT, new))

    def _accused(self, member: Member, by: tuple[str, ...]) -> None:
        self.counters["suspicions"] += 1
        self.accusations.append((member.facts.name, by))

    def _add_accusers(self, entry: Entry, accusers: tuple[str, ...], now_s: float) -> None:
        """Confirm a suspicion; pass it on while more voices still shorten it."""
        if entry.member.status is not Status.SUSPECT:
            return
        fresh = [accuser for accuser in accusers if accuser not in entry.accusers]
        wanted = min(ACCUSERS_MAX, self._patience(now_s).expected + 1) - len(entry.accusers)
        if fresh and wanted > 0:
            entry.accusers += tuple(fresh[:wanted])
            self._set_suspicion(entry, now_s)
            self._spread(News(entry.member, entry.accusers), now_s)

    def _set_suspicion(self, entry: Entry, now_s: float) -> None:
        timeout_s = self._patience(now_s).timeout_s(len(entry.accusers))
        if entry.is_hasty:
            timeout_s = min(timeout_s, 2 * self.rules.probe_interval_s)
        self._alarms.set(("suspicion", entry.member.id), entry.suspected_s + timeout_s)

    def _maybe_volunteer(self, entry: Entry, now_s: float) -> None:
        """Probe a suspect out of turn, so that who can confirm does so soon.

        Twice as many as are asked for do it, on average, whatever the size of the mesh.
        """
        wanted = 2 * (self._patience(now_s).expected + 1)
        if self._rng.random() * len(self._roster.present) < wanted:
            self._roster.hurry(entry.member.id)

    def _declare_dead(self, member: str, now_s: float) -> None:
        entry = self._roster.get(member)
        assert entry is not None
        assert entry.member.status is Status.SUSPECT
        self._merge(News(entry.member.seen_as(Status.DEAD), entry.accusers), now_s)

    def _suspect_namesakes(self, newcomer: Member, now_s: float) -> None:
        """A newer process carries a name: who carried it before is most likely gone."""
        if newcomer.facts.name == self.me.facts.name:
            self._take_name_conflict(newcomer)
        for entry in self._roster.named(newcomer.facts.name):
            elder = entry.member
            if elder.id == newcomer.id or elder.boot >= newcomer.boot or not elder.is_present:
                continue
            self._merge(News(elder.seen_as(Status.SUSPECT), (self.me.id,)), now_s)
            entry.is_hasty = True
            self._set_suspicion(entry, now_s)
            # If it lives after all, it hears of it at once and refutes.
            self._send(elder.address, elder.id, (), now_s, (entry.news(now_s),))

    def _take_name_conflict(self, other: Member) -> None:
        self.counters["name_conflicts"] += 1
        self._out.append(ev.Notice(Kind.NAME_TAKEN, other))

    # -- about this node --------------------------------------------------------------

    def _hear_about_me(self, news: News, now_s: float) -> None:
        said = news.member
        if said.boot > self.me.boot:
            self._superseded()
            return
        is_true = said.status is Status.ALIVE and said == self.me
        if self.is_leaving or said.version < self.me.version or is_true:
            return
        if said.status is not Status.ALIVE:
            self.awareness.adjust(1)
            self._accused(said, news.accusers)
        self._refute(said.incarnation, now_s)
        self.counters["refutations"] += 1
        self._out.append(ev.Notice(Kind.REFUTED, said, news.accusers))

    def _refute(self, accused: int, now_s: float) -> None:
        self._become(now_s, incarnation=max(self.me.incarnation, accused) + 1)

    def _become(self, now_s: float, **changes: Any) -> None:
        self.me = msgspec.structs.replace(self.me, **changes)
        self.version += 1
        self._spread(News(self.me), now_s)

    def _superseded(self) -> None:
        """A later process has this identity: to contradict it would never end."""
        self._is_superseded = True
        self._out.append(ev.Notice(Kind.SUPERSEDED, self.me))

    def _tell(self, facts: Facts, now_s: float) -> None:
        check_facts(facts)
        if self.is_leaving or (facts == self.me.facts and self._untold is None):
            return
        self._untold = facts
        is_urgent = msgspec.structs.replace(facts, load=0.0) != msgspec.structs.replace(
            self.me.facts, load=0.0
        )
        due_s = self._last_told_s + self.rules.load_interval_s
        if is_urgent or due_s <= now_s:
            self._tell_now(now_s)
        else:
            self._alarms.set(("tell",), due_s)

    def _tell_now(self, now_s: float) -> None:
        self._alarms.clear(("tell",))
        if self._untold is not None and not self.is_leaving:
            self._last_told_s = now_s
            facts, self._untold = self._untold, None
            self._become(now_s, facts=facts, incarnation=self.me.incarnation + 1)

    def _leave(self, now_s: float) -> None:
        if self.is_leaving:
            return
        for name in ("probe", "indirect", "sync", "rejoin", "tell"):
            self._alarms.clear((name,))
        self._probe = None
        self._become(now_s, status=Status.LEFT)
        self._alarms.set(("leave",), now_s + self.rules.leave_s)
        if self.is_alone:
            self._finish_leaving()

    def _finish_leaving(self) -> None:
        self._alarms.clear(("leave",))
        self._out.append(ev.Notice(Kind.GONE, self.me))

    # -- spreading --------------------------------------------------------------------

    def _spread(self, news: News, now_s: float) -> None:
        self._rumours.put(news)
        if self._alarms.at_s(("gossip",)) is None:
            due_s = self._last_gossip_s + self.rules.gossip_interval_s
            self._alarms.set(("gossip",), max(due_s, now_s + self.rules.first_gossip_s))

    def _gossip(self, now_s: float) -> None:
        self._last_gossip_s = now_s
        targets = self._gossip_targets(now_s)
        for member in targets:
            if self._rumours:
                self._send(member.address, member.id, (), now_s)
        if self._rumours and targets:
            self._alarms.set(("gossip",), now_s + self.rules.gossip_interval_s)
        elif self._rumours:
            # Nobody to tell: who joins later learns it by sync.
            self._rumours = Rumours()
        if self.is_leaving and self._alarms.at_s(("leave",)) and self.me.id not in self._rumours:
            self._finish_leaving()

    def _gossip_targets(self, now_s: float) -> list[Member]:
        """Choose whom to tell; the recently dead too, so that they can refute."""
        fanout = self.rules.gossip_fanout
        dead = [
            entry.member
            for entry in self._roster.gone_since(now_s - self.rules.to_dead_s)
            if entry.member.status is Status.DEAD
        ]
        present = self._roster.sample(fanout, lambda _: True)
        pool = present + self._rng.sample(dead, min(len(dead), fanout))
        return self._rng.sample(pool, min(fanout, len(pool)))

    # -- syncing ----------------------------------------------------------------------

    def _merge_sync(self, sync: Sync, now_s: float) -> None:
        if sync.label != self.label:
            self.counters["foreign"] += 1
            return
        # What the first sync brings is news to nobody but us.
        is_quiet = self.is_alone
        for news in sync.news:
            if self._is_superseded:
                return
            entry = self._roster.get(news.member.id)
            is_about_me = news.member.id == self.me.id
            is_held_present = entry is not None and entry.member.is_present
            if news.member.status is Status.DEAD and (is_about_me or is_held_present):
                voices = tuple(dict.fromkeys((*news.accusers, sync.sender)))[:ACCUSERS_MAX]
                news = News(news.member.seen_as(Status.SUSPECT), voices)
            self._merge(news, now_s, is_quiet=is_quiet and news.member.is_present)

    def _sync_with_anyone(self, now_s: float) -> None:
        spread = self._rng.uniform(0.9, 1.1)
        self._alarms.set(("sync",), now_s + spread * self._sync_interval_s(now_s))
        for member in self._roster.sample(1, lambda member: member.status is Status.ALIVE):
            self._start_sync(member.address)

    def _start_sync(self, address: str) -> None:
        if address in self._syncs or len(self._syncs) >= self.rules.syncs_max:
            self.counters["syncs_refused"] += 1
            return
        self._syncs.add(address)
        self.counters["syncs"] += 1
        self._out.append(ev.StartSync(address))

    def _rejoin(self, now_s: float) -> None:
        """Ask seeds, the dead and the once known: no split is final."""
        is_alone = self.is_alone
        interval_s = self.rules.lonely_interval_s if is_alone else self.rules.rejoin_interval_s
        self._alarms.set(("rejoin",), now_s + self._rng.uniform(0.8, 1.2) * interval_s)
        seeds = self._absent(self._seeds)
        if is_alone:
            for address in self._rng.sample(seeds, min(8, len(seeds))):
                self._seq += 1
                self._send(address, "", (Ping(self._seq, ""),), now_s)
                self._start_sync(address)
        others = self._missing(now_s)
        chance = 1.0 if is_alone or seeds else len(others) / len(self._roster.present)
        pool = seeds + others if not is_alone else others
        if pool and self._rng.random() < chance:
            self._start_sync(self._rng.choice(pool))

    def _absent(self, addresses: tuple[str, ...]) -> list[str]:
        """Return those of `addresses` under which no present member is known."""
        reached = {entry.member.address for entry in self._roster if entry.member.is_present}
        reached |= self._own_addresses
        return [address for address in addresses if address not in reached]

    def _missing(self, now_s: float) -> list[str]:
        dead = [e.member.address for e in self._roster if e.member.status is Status.DEAD]
        return self._absent(tuple(dict.fromkeys((*dead, *self._known))))

    # -- invariants -------------------------------------------------------------------

    def check(self) -> None:
        """Assert every invariant that one node alone can see."""
        self._roster.check()
        self._rumours.check()
        assert self.me.status in (Status.ALIVE, Status.LEFT)
        assert self._roster.get(self.me.id) is None
        assert len(self._rumours) <= len(self._roster) + 1
        assert len(self._syncs) <= self.rules.syncs_max
        for entry in self._roster:
            is_suspect = entry.member.status is Status.SUSPECT
            has_alarm = self._alarms.at_s(("suspicion", entry.member.id)) is not None
            assert is_suspect == has_alarm, entry
            assert len(entry.accusers) <= ACCUSERS_MAX
        assert self._probe is None or self.is_leaving or self._alarms.at_s(("probe",))

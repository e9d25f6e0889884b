"""Who is alive: SWIM with Lifeguard, as one machine.

Pure. `net.membership` and the simulator of `tests/sim` run it. Its parts: `beliefs`
(what to make of news), `prober` (pings), `syncer` (whole tables), `state` (the rest).

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
5. Every packet shows both sides who is behind about the other; who is ahead then tells.

Source: Das, Gupta, Motivala, "SWIM", DSN 2002; Lifeguard, arXiv 1707.00788.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from mesh.gossip import events as ev
from mesh.gossip.alarms import Name
from mesh.gossip.beliefs import Beliefs
from mesh.gossip.events import Kind
from mesh.gossip.member import ACCUSERS_MAX, Facts, Member, News, Status, check_facts
from mesh.gossip.packets import Ack, Message, Nack, Packet, Ping, PingRequest, Sync
from mesh.gossip.prober import Prober
from mesh.gossip.rules import Rules
from mesh.gossip.state import State
from mesh.gossip.syncer import Syncer
from mesh.machine import Tick


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
        self._state = State(label, me, rng, rules or Rules())
        self._beliefs = Beliefs(self._state)
        self._prober = Prober(self._state, self._beliefs)
        self._syncer = Syncer(self._state, seeds, known)
        self._last_told_s = float("-inf")
        self._untold: Facts | None = None
        self._is_superseded = False
        self._snapshot: tuple[int, tuple[Member, ...]] = (0, ())

    # What others see.

    @property
    def me(self) -> Member:
        """This node."""
        return self._state.me

    @property
    def version(self) -> int:
        """Grows with each change of `members`."""
        return self._state.version

    @property
    def rules(self) -> Rules:
        """How this node gossips."""
        return self._state.rules

    def members(self) -> tuple[Member, ...]:
        """Return everyone known, this node included, sorted by id.

        A member that is gone is left out once a newer process carries its name.
        """
        if self._snapshot[0] != self.version:
            everyone = [self.me, *(entry.member for entry in self._state.roster)]
            everyone.sort(key=lambda member: member.id)
            newest: dict[str, int] = {}
            for member in everyone:
                if member.is_present:
                    name = member.facts.name
                    newest[name] = max(member.boot, newest.get(name, 0))
            shown = (m for m in everyone if m.is_present or m.boot >= newest.get(m.facts.name, 0))
            self._snapshot = (self.version, tuple(shown))
        return self._snapshot[1]

    def sync(self, now_s: float) -> Sync:
        """Return everything this node knows, for a peer."""
        return self._syncer.table(now_s)

    def statistics(self) -> dict[str, Any]:
        """Return counts since the start, and how this node feels."""
        state = self._state
        return {
            "health_score": state.awareness.score,
            "members_present": len(state.roster.present) + 1,
            "members_known": len(state.roster) + 1,
            "rumours_waiting": len(state.rumours),
            "syncs_in_flight": self._syncer.in_flight,
            "last_accusations": [
                {"member": member, "by": list(by)} for member, by in state.accusations
            ],
            **state.counters,
        }

    # The machine.

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
            case ev.SyncEnded(address, by):
                self._syncer.ended(address, by)
            case ev.StreamProbeAnswered(seq, target):
                self._prober.take_stream(seq, target)
            case ev.FactsTold(facts):
                self._tell(facts, now_s)
            case ev.Started():
                self._start(now_s)
            case ev.LeaveAsked():
                self._leave(now_s)
        out, self._state.out = self._state.out, []
        return out

    def wakeup_s(self) -> float | None:
        """Return when the next alarm rings."""
        return None if self._is_superseded else self._state.alarms.next_s()

    def check(self) -> None:
        """Assert every invariant that one node alone can see."""
        state = self._state
        state.roster.check()
        state.rumours.check()
        self._prober.check()
        self._syncer.check()
        assert state.me.status in (Status.ALIVE, Status.LEFT)
        assert state.roster.get(state.me.id) is None
        assert len(state.rumours) <= len(state.roster) + 1
        for entry in state.roster:
            has_alarm = state.alarms.at_s(("suspicion", entry.member.id)) is not None
            assert has_alarm == (entry.member.status is Status.SUSPECT), entry
            assert len(entry.accusers) <= ACCUSERS_MAX

    # Time.

    def _start(self, now_s: float) -> None:
        first_s = self._state.rng.uniform(0.0, self.rules.probe_interval_s)  # no lockstep
        self._state.alarms.set(("probe",), now_s + first_s)
        self._syncer.start(now_s)

    def _tick(self, now_s: float) -> None:
        alarms, due_s = self._state.alarms, self._state.alarms.next_s()
        if due_s is not None and now_s - due_s > self.rules.stall_s:
            self._notice_stall(now_s - due_s)
        while (name := alarms.pop_due(now_s)) is not None:
            self._ring(name, now_s)

    def _ring(self, name: Name, now_s: float) -> None:
        match name:
            case ("probe",):
                self._prober.next_probe(now_s)
            case ("indirect",):
                self._prober.ask_others(now_s)
            case ("relay", seq):
                self._prober.give_up(int(seq), now_s)
            case ("suspicion", member):
                self._beliefs.declare_dead(member, now_s)
            case ("gossip",):
                self._gossip(now_s)
            case ("sync",):
                self._syncer.sync_with_anyone(now_s)
            case ("rejoin",):
                self._syncer.rejoin(now_s)
            case ("tell",):
                self._tell_now(now_s)
            case ("leave",):
                self._finish_leaving()

    def _notice_stall(self, late_s: float) -> None:
        """Others had no chance to be heard while we stood still."""
        state = self._state
        state.alarms.shift(("probe", "indirect", "relay", "suspicion"), late_s)
        self._beliefs.forgive_stall(late_s)
        state.awareness.adjust(max(1, int(late_s)))
        state.counters["stalls"] += 1
        state.notice(Kind.STALLED, self.me, seconds=late_s)

    # Packets and tables.

    def _receive(self, packet: Packet, source: str, now_s: float) -> None:
        state = self._state
        if packet.label != state.label:
            state.counters["foreign"] += 1
            return
        if packet.sender == self.me.id:
            self._hear_myself(packet.boot, source)
            return
        for news in packet.rumours:
            self._merge(news, now_s)
        if self._is_superseded:
            return
        owed = self._owed(packet, now_s)
        is_answered = False
        for message in packet.messages:
            is_answered |= self._take(message, packet.sender, source, owed or (), now_s)
        if owed is not None and not is_answered:
            self._tell_apart(packet.sender, source, owed, now_s)

    def _tell_apart(self, sender: str, source: str, owed: tuple[News, ...], now_s: float) -> None:
        """Tell what is owed in a packet of its own, to each sender only so often.

        Two nodes that suspect each other and do not refute would else never stop.
        """
        entry = self._state.roster.get(sender)
        if entry is None:
            self._state.send(source, sender, (), now_s, owed)
        elif now_s >= entry.told_s + self.rules.gossip_interval_s:
            entry.told_s = now_s
            self._state.send(entry.member.address, sender, (), now_s, owed)

    def _hear_myself(self, boot: int, source: str) -> None:
        """A seed is this node under another name, or a process copied our identity."""
        if boot > self.me.boot:
            self._superseded()
        elif boot == self.me.boot:
            self._syncer.is_mine(source)

    def _owed(self, packet: Packet, now_s: float) -> tuple[News, ...] | None:
        """Return what the sender must hear, or None if we agree about each other.

        An answer without news still tells, in its head, which version of the sender
        we know, upon which it tells us the rest.
        """
        owed: list[News] = []
        entry = self._state.roster.get(packet.sender)
        if (packet.seen_boot, packet.seen_incarnation) < self.me.version:
            owed.append(News(self.me))
        said = (packet.boot, packet.incarnation)
        if entry is None:
            return None if self._state.roster.is_full else tuple(owed)
        known = entry.member
        if known.status in (Status.SUSPECT, Status.DEAD) and known.version >= said:
            owed.append(entry.news(now_s))
        return tuple(owed) if owed or known.version < said else None

    def _take(
        self, message: Message, sender: str, source: str, owed: tuple[News, ...], now_s: float
    ) -> bool:
        """Act on one message; return whether that sent an answer to the packet's sender."""
        match message:
            case Ping(seq, target) if target in ("", self.me.id):
                self._state.send(source, sender, (Ack(seq, self.me.id),), now_s, owed)
                return True
            case Ping():
                self._state.counters["pings_for_others"] += 1
            case PingRequest():
                self._prober.relay(message, sender, source, now_s)
            case Ack():
                self._prober.take_ack(message, sender, now_s)
            case Nack():
                self._prober.take_nack(message)
        return False

    def _merge_sync(self, sync: Sync, now_s: float) -> None:
        if sync.label != self._state.label:
            self._state.counters["foreign"] += 1
            return
        # What the first sync brings is news to nobody but us.
        is_quiet = self._state.is_alone
        for news in sync.news:
            if self._is_superseded:
                return
            if self._syncer.is_old(news.member):
                continue
            news = self._syncer.softened(news, sync.sender)
            self._merge(news, now_s, is_quiet=is_quiet and news.member.is_present)

    def _merge(self, news: News, now_s: float, *, is_quiet: bool = False) -> None:
        if news.member.id == self.me.id:
            self._hear_about_me(news, now_s)
            return
        was_alone = self._state.is_alone
        self._beliefs.merge(news, now_s, is_quiet=is_quiet)
        if was_alone and not self._state.is_alone and not is_quiet:
            self._syncer.ask(news.member.address)

    # About this node.

    def _hear_about_me(self, news: News, now_s: float) -> None:
        said, state = news.member, self._state
        if said.boot > self.me.boot:
            self._superseded()
            return
        if state.is_leaving or said.version < self.me.version or said == self.me:
            return
        if said.status is not Status.ALIVE:
            state.awareness.adjust(1)
            state.accusations.append((said.facts.name, news.accusers))
        state.counters["refutations"] += 1
        state.notice(Kind.REFUTED, said, news.accusers)
        self._refute(said, now_s)

    def _refute(self, said: Member, now_s: float) -> None:
        self._state.become(now_s, incarnation=said.incarnation + 1)

    def _superseded(self) -> None:
        """A later process has this identity: to contradict it would never end."""
        self._is_superseded = True
        self._state.notice(Kind.SUPERSEDED, self.me)

    def _tell(self, facts: Facts, now_s: float) -> None:
        check_facts(facts)
        self._untold = facts
        due_s = self._last_told_s + self.rules.load_interval_s
        if due_s <= now_s or _without_load(facts) != _without_load(self.me.facts):
            self._tell_now(now_s)
        else:
            self._state.alarms.set(("tell",), due_s)

    def _tell_now(self, now_s: float) -> None:
        self._state.alarms.clear(("tell",))
        facts, self._untold = self._untold, None
        if facts is None or facts == self.me.facts or self._state.is_leaving:
            return
        self._last_told_s = now_s
        self._state.become(now_s, facts=facts, incarnation=self.me.incarnation + 1)

    def _leave(self, now_s: float) -> None:
        state = self._state
        if state.is_leaving:
            return
        self._prober.stop()
        self._syncer.stop()
        state.become(now_s, status=Status.LEFT)
        state.alarms.set(("leave",), now_s + self.rules.leave_s)
        if state.is_alone:
            self._finish_leaving()

    def _gossip(self, now_s: float) -> None:
        self._state.gossip(now_s)
        if self._state.alarms.at_s(("leave",)) and self.me.id not in self._state.rumours:
            self._finish_leaving()

    def _finish_leaving(self) -> None:
        self._state.alarms.clear(("leave",))
        self._state.notice(Kind.GONE, self.me)


def _without_load(facts: Facts) -> Facts:
    return msgspec.structs.replace(facts, load=0.0)

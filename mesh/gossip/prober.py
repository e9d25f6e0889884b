"""Whom to ask "are you there?", for this node and for others, and what silence means.

Pure. One part of `gossip.swim`. There is at most one probe of this node's own at a
time; its verdict falls when the next one begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.gossip.beliefs import Beliefs
from mesh.gossip.events import Kind, ProbeStream
from mesh.gossip.member import Member, Status
from mesh.gossip.packets import Ack, Nack, Ping, PingRequest
from mesh.gossip.roster import Entry
from mesh.gossip.state import State


@dataclass(slots=True)
class Probe:
    """This node's own open question."""

    seq: int
    member: Member
    asked: int = 0  # helpers
    nacks: int = 0  # helpers that heard nothing either, but could tell us so


@dataclass(slots=True)
class Relay:
    """A ping on behalf of another node."""

    seq: int  # as the asking node numbered it
    target: str
    origin: str  # id of the asking node
    source: str  # its address
    is_nacked: bool = False


class Prober:
    """All pings of this node that are in flight."""

    def __init__(self, state: State, beliefs: Beliefs) -> None:
        self._state, self._beliefs = state, beliefs
        self._probe: Probe | None = None
        self._relays: dict[int, Relay] = {}

    def next_probe(self, now_s: float) -> None:
        """Conclude the probe before, and begin one; ticks that were missed are not made up."""
        state = self._state
        if self._probe is not None:
            probe, self._probe = self._probe, None
            self._conclude(probe, now_s)
        interval_s = state.awareness.scaled_s(state.rules.probe_interval_s)
        state.alarms.set(("probe",), now_s + interval_s)
        state.roster.forget(now_s)
        entry = state.roster.next_to_probe()
        if entry is not None:
            self._begin(entry, now_s)

    def stop(self) -> None:
        """Ask nothing more for this node; helping others goes on."""
        self._probe = None
        self._state.alarms.clear(("probe",))
        self._state.alarms.clear(("indirect",))

    def _begin(self, entry: Entry, now_s: float) -> None:
        state, member = self._state, entry.member
        probe = self._probe = Probe(state.next_seq(), member)
        state.alarms.set(("indirect",), now_s + state.rules.probe_timeout_s)
        state.counters["probes"] += 1
        # A suspect hears of it from everyone who probes it: Lifeguard's buddy system.
        buddy = (entry.news(now_s),) if member.status is Status.SUSPECT else ()
        state.send(member.address, member.id, (Ping(probe.seq, member.id),), now_s, buddy)

    def ask_others(self, now_s: float) -> None:
        """Nothing heard in time: try it through helpers, and over TCP."""
        state, probe = self._state, self._probe
        if probe is None:
            return
        target = probe.member
        for helper in self._helpers(target):
            request = PingRequest(probe.seq, target.id, target.address)
            state.send(helper.address, helper.id, (request,), now_s)
            probe.asked += 1
        verdict_s = state.alarms.at_s(("probe",))
        assert verdict_s is not None
        if verdict_s > now_s:
            timeout_s = verdict_s - now_s
            state.out.append(ProbeStream(probe.seq, target.id, target.address, timeout_s))

    def _helpers(self, target: Member) -> list[Member]:
        return self._state.roster.sample(
            self._state.rules.indirect_count,
            lambda member: member.status is Status.ALIVE and member.id != target.id,
        )

    def take_ack(self, ack: Ack, sender: str, now_s: float) -> None:
        """Somebody is there, for us or for whom we asked."""
        if ack.seq in self._relays:
            self._pass_on(ack, sender, now_s)
        else:
            self._answered(ack.seq, ack.target)

    def take_stream(self, seq: int, target: str) -> None:
        """The target answered over TCP: alive, but datagrams do not get through."""
        if self._answered(seq, target):
            self._state.counters["stream_only"] += 1
            entry = self._state.roster.get(target)
            if entry is not None:
                self._state.notice(Kind.STREAM_ONLY, entry.member)

    def take_nack(self, nack: Nack) -> None:
        """A helper did its part, in vain."""
        probe = self._probe
        if probe is not None and (nack.seq, nack.target) == (probe.seq, probe.member.id):
            probe.nacks = min(probe.asked, probe.nacks + 1)

    def _answered(self, seq: int, target: str) -> bool:
        probe = self._probe
        if probe is None or (seq, target) != (probe.seq, probe.member.id):
            return False  # late: only the member's own word can refute a verdict
        self._probe = None
        self._state.alarms.clear(("indirect",))
        self._state.awareness.adjust(-1)
        return True

    def _conclude(self, probe: Probe, now_s: float) -> None:
        """Nobody reached the target: believe it as far as our own senses can be trusted."""
        state = self._state
        state.counters["probes_failed"] += 1
        state.awareness.adjust(probe.asked - probe.nacks if probe.asked else 1)
        entry = state.roster.get(probe.member.id)
        if entry is None or not entry.member.is_present:
            return
        if entry.member.version == probe.member.version:  # otherwise it has spoken since
            self._beliefs.suspect(entry, now_s)

    def relay(self, request: PingRequest, origin: str, source: str, now_s: float) -> None:
        """Ping a member for `origin`, which cannot reach it."""
        state = self._state
        if len(self._relays) >= state.rules.relays_max:
            state.counters["relays_refused"] += 1
            return
        seq = state.next_seq()
        self._relays[seq] = Relay(request.seq, request.target, origin, source)
        nack_s = now_s + state.rules.nack_share * state.rules.probe_timeout_s
        state.alarms.set(("relay", str(seq)), nack_s)
        state.send(request.address, request.target, (Ping(seq, request.target),), now_s)

    def _pass_on(self, ack: Ack, sender: str, now_s: float) -> None:
        relay = self._relays[ack.seq]
        if not ack.target == sender == relay.target:
            return  # another process listens at the address that we were given
        del self._relays[ack.seq]
        self._state.alarms.clear(("relay", str(ack.seq)))
        answer = Ack(relay.seq, relay.target)
        self._state.send(relay.source, relay.origin, (answer,), now_s)

    def give_up(self, seq: int, now_s: float) -> None:
        """Tell who asked that nothing was heard; a late ack is still passed on for a while."""
        relay = self._relays[seq]
        if relay.is_nacked:
            del self._relays[seq]
            return
        relay.is_nacked = True
        self._state.alarms.set(("relay", str(seq)), now_s + self._state.rules.probe_interval_s)
        answer = Nack(relay.seq, relay.target)
        self._state.send(relay.source, relay.origin, (answer,), now_s)

    def check(self) -> None:
        """Assert that nothing in flight is without its alarm."""
        alarms = self._state.alarms
        assert self._probe is None or alarms.at_s(("probe",)) is not None
        assert len(self._relays) <= self._state.rules.relays_max
        for seq in self._relays:
            assert alarms.at_s(("relay", str(seq))) is not None

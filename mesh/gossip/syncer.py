"""Whom to exchange whole tables with, and when: gossip may miss someone, a sync does not.

Pure. One part of `gossip.swim`. Nothing is final: seeds, the dead and all who were
ever known are asked again for ever, so that no split outlives its cause.
"""

from __future__ import annotations

from mesh.gossip.events import StartSync
from mesh.gossip.lifeguard import sync_interval_s
from mesh.gossip.member import ACCUSERS_MAX, Member, News, Status
from mesh.gossip.packets import Ping, Sync
from mesh.gossip.state import State

_OWN_ADDRESSES_MAX = 64


class Syncer:
    """Push and pull with anyone, and the way back into the mesh."""

    def __init__(self, state: State, seeds: tuple[str, ...], known: tuple[str, ...]) -> None:
        self._state = state
        self._seeds, self._known = seeds, known
        self._in_flight: set[str] = set()
        self._own = {state.me.address}
        self._led_to: dict[str, str] = {}  # seeds and known addresses, to who was met there

    @property
    def in_flight(self) -> int:
        """How many syncs have begun and not ended."""
        return len(self._in_flight)

    def start(self, now_s: float) -> None:
        """Look for the others at once."""
        first_s = self._state.rng.uniform(0.5, 1.0) * self._interval_s(now_s)
        self._state.alarms.set(("sync",), now_s + first_s)
        self.rejoin(now_s)

    def stop(self) -> None:
        """Begin no more syncs."""
        self._state.alarms.clear(("sync",))
        self._state.alarms.clear(("rejoin",))

    def is_mine(self, address: str) -> None:
        """Remember an address at which this node found itself."""
        if len(self._own) < _OWN_ADDRESSES_MAX:
            self._own.add(address)

    def ask(self, address: str) -> None:
        """Start a sync, unless one is under way or there are too many."""
        if address in self._in_flight or len(self._in_flight) >= self._state.rules.syncs_max:
            self._state.counters["syncs_refused"] += 1
            return
        self._in_flight.add(address)
        self._state.counters["syncs"] += 1
        self._state.out.append(StartSync(address))

    def ended(self, address: str, by: str) -> None:
        """Take note of what became of a sync, and of whom it met."""
        self._in_flight.discard(address)
        self._state.counters["syncs_answered" if by else "syncs_failed"] += 1
        if by == self._state.me.id:
            self.is_mine(address)
        elif by and (address in self._seeds or address in self._known):
            self._led_to[address] = by

    def table(self, now_s: float) -> Sync:
        """Return everything this node knows."""
        me, roster = self._state.me, self._state.roster
        news = [News(me), *(entry.news(now_s) for entry in roster)]
        return Sync(self._state.label, me.id, me.boot, tuple(news))

    def is_old(self, member: Member) -> bool:
        """Whether a living entry says nothing new: most of a table, so this has to be quick."""
        entry = self._state.roster.get(member.id)
        return (
            entry is not None
            and member.status is Status.ALIVE
            and member.version <= entry.member.version
        )

    def softened(self, news: News, sender: str) -> News:
        """Return what to make of an entry of another table: its dead are our suspects.

        So they can refute, if only the others lost sight of them.
        """
        member = news.member
        entry = self._state.roster.get(member.id)
        is_held = entry.member.is_present if entry else member.id == self._state.me.id
        if member.status is not Status.DEAD or not is_held:
            return news
        voices = tuple(dict.fromkeys((*news.accusers, sender)))[:ACCUSERS_MAX]
        return News(member.seen_as(Status.SUSPECT), voices)

    def sync_with_anyone(self, now_s: float) -> None:
        """The regular exchange with a random member."""
        wait_s = self._state.rng.uniform(0.9, 1.1) * self._interval_s(now_s)
        self._state.alarms.set(("sync",), now_s + wait_s)
        for member in self._state.roster.sample(1, lambda one: one.status is Status.ALIVE):
            self.ask(member.address)

    def rejoin(self, now_s: float) -> None:
        """Ask one of those who should be here and are not; all seeds while we are alone."""
        state, rules = self._state, self._state.rules
        interval_s = rules.lonely_interval_s if state.is_alone else rules.rejoin_interval_s
        state.alarms.set(("rejoin",), now_s + state.rng.uniform(0.8, 1.2) * interval_s)
        seeds, others = self._absent(self._seeds), self._missing()
        if state.is_alone:
            self._ask_seeds(seeds, now_s)
            chance = 1.0
        else:
            chance = 1.0 if seeds else len(others) / len(state.roster.present)
            others = seeds + others
        if others and state.rng.random() < chance:
            self.ask(state.rng.choice(others))

    def _ask_seeds(self, seeds: list[str], now_s: float) -> None:
        """By datagram as well: it costs nothing, and no refused connection slows it down."""
        state = self._state
        for address in state.rng.sample(seeds, min(state.rules.seeds_max, len(seeds))):
            state.send(address, "", (Ping(state.next_seq(), ""),), now_s)
            self.ask(address)

    def _absent(self, addresses: tuple[str, ...]) -> list[str]:
        """Return those of `addresses` under which no present member is known."""
        present = [entry.member for entry in self._state.roster if entry.member.is_present]
        reached = self._own | {member.address for member in present}
        ids = {member.id for member in present}
        return [
            address
            for address in addresses
            if address not in reached and self._led_to.get(address) not in ids
        ]

    def _missing(self) -> list[str]:
        roster = self._state.roster
        dead = [entry.member.address for entry in roster if entry.member.status is Status.DEAD]
        return self._absent(tuple(dict.fromkeys((*dead, *self._known))))

    def _interval_s(self, now_s: float) -> float:
        return sync_interval_s(self._state.rules.sync_interval_s, self._state.size(now_s))

    def check(self) -> None:
        """Assert the limits."""
        assert len(self._in_flight) <= self._state.rules.syncs_max
        assert len(self._own) <= _OWN_ADDRESSES_MAX

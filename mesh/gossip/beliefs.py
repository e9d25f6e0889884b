"""What to believe about others: which news is taken in, how suspicion ends, who is dead.

Pure. One part of `gossip.swim`.

    unknown ──> ALIVE ──accused──> SUSPECT ──silent──> DEAD
                  ^  '<──refuted──────'                 │
                  '<── a higher incarnation or boot ────'      LEFT outranks DEAD
"""

from __future__ import annotations

from mesh.gossip.events import Kind
from mesh.gossip.member import ACCUSERS_MAX, Member, News, Status
from mesh.gossip.roster import Entry
from mesh.gossip.state import State

HASTY_PROBES = 2  # probe intervals that a member has to refute when a newer one has its name


class Beliefs:
    """The judgements on all other members."""

    def __init__(self, state: State) -> None:
        self._state = state

    def merge(self, news: News, now_s: float, *, is_quiet: bool = False) -> bool:
        """Take in news about another member; return whether it changed its entry.

        What is new is passed on, unless `is_quiet`.
        """
        member, roster = news.member, self._state.roster
        assert member.id != self._state.me.id
        entry = roster.get(member.id)
        if entry is None:
            if roster.is_full:
                self._state.counters["members_refused"] += 1
                return False
            self._accept(None, news, now_s, is_quiet or not member.is_present)
            return True
        if member.precedence > entry.member.precedence:
            self._accept(entry, news, now_s, is_quiet)
            return True
        if member.precedence == entry.member.precedence and member.status is Status.SUSPECT:
            self._add_accusers(entry, news.accusers, now_s)
        return False

    def suspect(self, entry: Entry, now_s: float) -> None:
        """This node itself accuses a member."""
        accusation = News(entry.member.seen_as(Status.SUSPECT), (self._state.me.id,))
        self.merge(accusation, now_s)

    def declare_dead(self, member: str, now_s: float) -> None:
        """A suspect has been silent for too long."""
        entry = self._state.roster.get(member)
        assert entry is not None
        assert entry.member.status is Status.SUSPECT
        self.merge(News(entry.member.seen_as(Status.DEAD), entry.accusers), now_s)

    def forgive_stall(self, late_s: float) -> None:
        """Time in which this node heard nobody does not count against suspects."""
        for member in self._state.roster.present:
            entry = self._state.roster.get(member)
            if entry is not None and entry.member.status is Status.SUSPECT:
                entry.suspected_s += late_s

    def _accept(self, entry: Entry | None, news: News, now_s: float, is_quiet: bool) -> None:
        state, new = self._state, news.member
        old = entry.member if entry else None
        entry = state.roster.put(new, now_s, news.gone_s)
        entry.accusers = news.accusers if new.status in (Status.SUSPECT, Status.DEAD) else ()
        entry.is_hasty = False
        state.version += 1
        state.alarms.clear(("suspicion", new.id))
        if new.status is Status.SUSPECT:
            entry.suspected_s = now_s
            self._set_suspicion(entry, now_s)
            self._maybe_volunteer(entry, now_s)
        if not is_quiet:
            state.spread(News(new, entry.accusers), now_s)
        self._notice_change(old, entry)
        if new.is_present and (old is None or old.boot < new.boot):
            self._part_namesakes(new, now_s)

    def _notice_change(self, old: Member | None, entry: Entry) -> None:
        state, new = self._state, entry.member
        was_present = old is not None and old.is_present
        is_newcomer = old is None or not was_present or old.boot != new.boot
        match new.status:
            case Status.ALIVE:
                is_cleared = old is not None and old.status is Status.SUSPECT
                kind = Kind.CLEARED if is_cleared else Kind.UPDATED
                state.notice(Kind.JOINED if is_newcomer else kind, new)
            case Status.SUSPECT:
                state.counters["suspicions"] += 1
                state.accusations.append((new.facts.name, entry.accusers))
                state.notice(Kind.SUSPECTED, new, entry.accusers)
            case Status.DEAD if was_present:
                state.counters["deaths"] += 1
                state.notice(Kind.DIED, new, entry.accusers)
            case Status.LEFT if was_present:
                state.notice(Kind.LEFT, new)

    def _add_accusers(self, entry: Entry, accusers: tuple[str, ...], now_s: float) -> None:
        """Confirm a suspicion; pass it on while more voices still shorten it."""
        fresh = [accuser for accuser in accusers if accuser not in entry.accusers]
        voices_max = min(ACCUSERS_MAX, self._state.patience(now_s).expected + 1)
        room = voices_max - len(entry.accusers)
        if fresh and room > 0:
            entry.accusers += tuple(fresh[:room])
            self._set_suspicion(entry, now_s)
            self._state.spread(News(entry.member, entry.accusers), now_s)

    def _set_suspicion(self, entry: Entry, now_s: float) -> None:
        state = self._state
        timeout_s = state.patience(now_s).timeout_s(len(entry.accusers))
        if entry.is_hasty:
            timeout_s = min(timeout_s, HASTY_PROBES * state.rules.probe_interval_s)
        # Late voices may shorten it into the past, which must not look like a stall of ours.
        due_s = max(now_s, entry.suspected_s + timeout_s)
        state.alarms.set(("suspicion", entry.member.id), due_s)

    def _maybe_volunteer(self, entry: Entry, now_s: float) -> None:
        """Probe a suspect out of turn, so that who can confirm does so soon.

        Twice as many as are asked for do it, on average, whatever the size of the mesh.
        """
        wanted = 2 * (self._state.patience(now_s).expected + 1)
        if self._state.rng.random() * len(self._state.roster.present) < wanted:
            self._state.roster.hurry(entry.member.id)

    def _part_namesakes(self, new: Member, now_s: float) -> None:
        """Two processes carry one name: the elder is most likely gone."""
        me, name = self._state.me, new.facts.name
        boots = [e.member.boot for e in self._state.roster.named(name) if e.member.is_present]
        if name == me.facts.name:
            boots.append(me.boot)
            if new.boot > me.boot:
                self._state.counters["name_conflicts"] += 1
                self._state.notice(Kind.NAME_TAKEN, new)
        for entry in self._state.roster.named(name):
            if entry.member.is_present and entry.member.boot < max(boots):
                self._suspect_elder(entry, now_s)

    def _suspect_elder(self, entry: Entry, now_s: float) -> None:
        """Suspect with little patience; if it lives after all, it hears so and refutes."""
        self.suspect(entry, now_s)
        entry.is_hasty = True
        self._set_suspicion(entry, now_s)
        elder = entry.member
        self._state.send(elder.address, elder.id, (), now_s, (entry.news(now_s),))

"""Who is known: one entry per other member, the order of probing, and who is gone.

Pure. The table of `gossip.swim`; it keeps, counts and chooses, but decides nothing
about life and death.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from mesh.gossip.member import Member, News

MEMBERS_MAX = 16_384  # beyond, newcomers are not learnt: a limit against a flood, not a goal
FORGET_S = 24 * 3600.0  # how long the dead and departed are remembered, as Serf does


@dataclass(slots=True)
class Entry:
    """What this node knows of one other member, and since when."""

    member: Member
    accusers: tuple[str, ...] = ()
    suspected_s: float = 0.0  # when this node first heard the accusation
    is_hasty: bool = False  # suspected because a newer process carries its name
    gone_s: float = 0.0  # when it died or left
    told_s: float = float("-inf")  # when it was last told, out of turn, what it had wrong

    def news(self, now_s: float) -> News:
        """Return what a rumour or a sync says about this member."""
        age_s = 0 if self.member.is_present else max(0, int(now_s - self.gone_s))
        return News(self.member, self.accusers, age_s)


class Roster:
    """Every other member that this node knows, present or gone."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._entries: dict[str, Entry] = {}
        self._named: dict[str, list[str]] = {}
        self._gone: dict[str, Entry] = {}  # in the order of going
        self._order: list[str] = []  # the present ones, in the order of probing
        self._place = 0
        self._urgent: list[str] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @property
    def is_full(self) -> bool:
        """Whether no newcomer can be learnt."""
        return len(self._entries) >= MEMBERS_MAX

    @property
    def present(self) -> list[str]:
        """Ids of all that are neither dead nor gone; not to be changed."""
        return self._order

    def get(self, member: str) -> Entry | None:
        """Return the entry of the member with that id, if it is known."""
        return self._entries.get(member)

    def named(self, name: str) -> list[Entry]:
        """Return all that carry `name`."""
        return [self._entries[member] for member in self._named.get(name, ())]

    def put(self, member: Member, now_s: float, gone_for_s: float = 0.0) -> Entry:
        """Take `member` as the truth, and return its entry."""
        entry = self._entries.get(member.id)
        if entry is None:
            entry = self._entries[member.id] = Entry(member)
            self._named.setdefault(member.facts.name, []).append(member.id)
            was_present = False
        else:
            was_present = entry.member.is_present
            self._rename(member.id, entry.member.facts.name, member.facts.name)
            entry.member = member
        if member.is_present and not was_present:
            self._gone.pop(member.id, None)
            self._enlist(member.id)
        elif not member.is_present and member.id not in self._gone:
            entry.gone_s = now_s - gone_for_s
            self._gone[member.id] = entry
            self._strike(member.id)
        return entry

    def gone_since(self, since_s: float) -> list[Entry]:
        """Return those who died or left at `since_s` or later, latest first."""
        found = []
        for entry in reversed(self._gone.values()):
            if entry.gone_s < since_s:
                break
            found.append(entry)
        return found

    def forget(self, now_s: float) -> None:
        """Drop those who went more than `FORGET_S` ago."""
        old = [m for m, entry in self._gone.items() if entry.gone_s < now_s - FORGET_S]
        for member in old:
            self._rename(member, self._gone.pop(member).member.facts.name, None)
            del self._entries[member]

    def next_to_probe(self) -> Entry | None:
        """Return whose turn it is; each present member once per round."""
        while self._urgent:
            entry = self._entries.get(self._urgent.pop(0))
            if entry is not None and entry.member.is_present:
                return entry
        if not self._order:
            return None
        if self._place >= len(self._order):
            self._rng.shuffle(self._order)
            self._place = 0
        self._place += 1
        return self._entries[self._order[self._place - 1]]

    def hurry(self, member: str) -> None:
        """Probe `member` before all others."""
        if member not in self._urgent:
            self._urgent.append(member)

    def sample(self, count: int, accept: Callable[[Member], bool]) -> list[Member]:
        """Return up to `count` present members that `accept` takes, chosen at random."""
        if len(self._order) <= 4 * count:
            found = [self._entries[m].member for m in self._order]
            found = [member for member in found if accept(member)]
            return self._rng.sample(found, min(count, len(found)))
        picked: dict[str, Member] = {}
        for _ in range(8 * count):  # bounded: where few are accepted, fewer come back
            member = self._entries[self._rng.choice(self._order)].member
            if accept(member):
                picked[member.id] = member
            if len(picked) == count:
                break
        return list(picked.values())

    def _enlist(self, member: str) -> None:
        # At a random place: appending would stretch the longest time to a first probe.
        place = self._rng.randint(0, len(self._order))
        self._order.insert(place, member)
        if place < self._place:
            self._place += 1

    def _strike(self, member: str) -> None:
        if member in self._order:
            place = self._order.index(member)
            del self._order[place]
            if place < self._place:
                self._place -= 1

    def _rename(self, member: str, old: str, new: str | None) -> None:
        if old == new:
            return
        self._named[old].remove(member)
        if not self._named[old]:
            del self._named[old]
        if new is not None:
            self._named.setdefault(new, []).append(member)

    def check(self) -> None:
        """Assert that the lists agree with the entries."""
        present = [m for m, entry in self._entries.items() if entry.member.is_present]
        assert sorted(present) == sorted(self._order)
        assert set(self._entries) == {*present, *self._gone}
        assert 0 <= self._place <= len(self._order)
        assert len(self._entries) <= MEMBERS_MAX
        for member, entry in self._entries.items():
            assert entry.member.id == member
            assert member in self._named[entry.member.facts.name]

"""What must hold in every world after every step: the checkers of the simulator.

They watch each single change of each table, not only the end of a step, because
two pieces of news in one packet could hide a forbidden state between them.
"""

from __future__ import annotations

from typing import Any

from mesh.gossip.member import Member, Status
from mesh.gossip.roster import Entry
from mesh.gossip.swim import Swim


class Broken(AssertionError):
    """A law of membership does not hold."""


def _law(holds: bool, name: str, *evidence: object) -> None:
    if not holds:
        raise Broken(f"{name}: {evidence}")


class Laws:
    """Safety, seen from outside: knows what every node has ever said about itself."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, int, int], Member] = {}
        self._latest: dict[str, tuple[int, int]] = {}
        self.checked = 0

    def begin(self, machine: Swim) -> None:
        """Watch a machine that is about to run."""
        self.check(machine)
        roster = machine._state.roster
        put = roster.put

        def watched(member: Member, *args: Any) -> Entry:
            self.accepted(machine, roster.get(member.id), member)
            return put(member, *args)

        roster.put = watched  # type: ignore[method-assign]

    def accepted(self, machine: Swim, entry: Entry | None, new: Member) -> None:
        """Look at one change of a table before it is made."""
        self.checked += 1
        _law(new.id != machine.me.id, "S6 nobody keeps itself in its table", new)
        said = self._said.get((new.id, *new.version))
        _law(said is not None, "S7 only what was introduced is known", new)
        assert said is not None
        own = (said.address, said.facts)
        _law((new.address, new.facts) == own, "S5 S8 one meaning per version", new, said)
        if entry is None:
            return
        old = entry.member
        _law(new.version >= old.version, "S1 no incarnation goes back", old, new)
        if new.version == old.version:
            _law(new.status > old.status, "S3 S4 no resurrection without a new word", old, new)

    def check(self, machine: Swim) -> None:
        """Look at what a node says about itself."""
        me = machine.me
        version = (me.id, *me.version)
        _law(me.status in (Status.ALIVE, Status.LEFT), "S6 a running node is not dead", me)
        _law(me.version >= self._latest.get(me.id, (0, 0)), "S2 own incarnation never falls", me)
        said = self._said.setdefault(version, me)
        _law((said.address, said.facts) == (me.address, me.facts), "S5 one meaning", me, said)
        self._latest[me.id] = me.version

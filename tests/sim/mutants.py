"""Seeded bugs: machines that are wrong in one place each, which the suite must catch.

A suite that has never failed proves nothing. Each mutant is a mistake that somebody
has made in a real membership protocol, or nearly made in this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.gossip import beliefs, prober, roster, state, syncer
from mesh.gossip.member import News, Status
from mesh.gossip.swim import Swim
from tests.sim import scenarios

Scenario = Callable[[type[Swim]], None]


def _replacing(part: str, kind: type) -> Any:
    """Return a machine in which one part is of another class."""

    class Mutant(Swim):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            getattr(self, part).__class__ = kind

    return Mutant


class NeverRefutes(Swim):
    """Hears that it is suspected, and says nothing."""

    def _refute(self, *_: Any) -> None:
        pass


class RefutesWithItsOldWord(Swim):
    """Says that it is alive, in the incarnation that was accused."""

    def _refute(self, said: Any, now_s: float) -> None:
        self._state.become(now_s, incarnation=said.incarnation)


class ForgivesNoStall(Swim):
    """Blames others for the time in which it stood still itself."""

    def _notice_stall(self, late_s: float) -> None:
        pass


class MinglesMeshes(Swim):
    """Does not look at the label."""

    def _receive(self, packet: Any, *args: Any) -> None:
        self._state.label, label = packet.label, self._state.label
        super()._receive(packet, *args)
        self._state.label = label


class KeepsItsViewOfOthersToItself(Swim):
    """Tells nobody that it is behind, or that he is suspected."""

    def _owed(self, *_: Any) -> None:
        return None


class _RaisesTheDead(beliefs.Beliefs):
    def merge(self, news: News, now_s: float, *, is_quiet: bool = False) -> bool:
        entry = self._state.roster.get(news.member.id)
        is_equal = entry is not None and entry.member.version == news.member.version
        if is_equal and news.member.status is Status.ALIVE:
            self._accept(entry, news, now_s, is_quiet)
            return True
        return super().merge(news, now_s, is_quiet=is_quiet)


class _NeverGivesUp(beliefs.Beliefs):
    def declare_dead(self, *_: Any) -> None:
        pass


class _LosesPatience(beliefs.Beliefs):
    def _set_suspicion(self, entry: roster.Entry, now_s: float) -> None:
        self._state.alarms.set(("suspicion", entry.member.id), now_s)


class _HearsNoVoices(beliefs.Beliefs):
    def _add_accusers(self, *_: Any) -> None:
        pass


class _IgnoresNames(beliefs.Beliefs):
    def _part_namesakes(self, *_: Any) -> None:
        pass


class _AsksNobodyElse(prober.Prober):
    def ask_others(self, now_s: float) -> None:
        pass


class _NeverSyncs(syncer.Syncer):
    def ask(self, address: str) -> None:
        pass


class _AsksSeedsOnce(syncer.Syncer):
    def rejoin(self, now_s: float) -> None:
        if self._state.counters["syncs"] == 0:
            super().rejoin(now_s)


class _BuriesOnHearsay(syncer.Syncer):
    def softened(self, news: News, sender: str) -> News:
        return News(news.member, news.accusers[:0], 0)


class _WhispersOnce(state.State):
    def gossip(self, now_s: float) -> None:
        super().gossip(now_s)
        self.rumours.__init__()  # type: ignore[misc]


class _Mute(state.State):
    def spread(self, *_: Any) -> None:
        pass


# What each is caught by; many are caught by more.
MUTANTS: dict[str, tuple[type[Swim], Scenario]] = {
    "never refutes": (NeverRefutes, scenarios.resumed_in_time_is_alive),
    "refutes with its old word": (RefutesWithItsOldWord, scenarios.resumed_in_time_is_alive),
    "forgives no stall": (ForgivesNoStall, scenarios.stalls_blame_nobody),
    "mingles meshes": (MinglesMeshes, scenarios.strangers_change_nothing),
    "keeps its view to itself": (
        KeepsItsViewOfOthersToItself,
        scenarios.missed_news_is_made_up,
    ),
    "raises the dead": (_replacing("_beliefs", _RaisesTheDead), scenarios.crash_is_seen),
    "never gives up": (_replacing("_beliefs", _NeverGivesUp), scenarios.crash_is_seen),
    "loses patience": (_replacing("_beliefs", _LosesPatience), scenarios.pausing_is_forgiven),
    "hears no voices": (_replacing("_beliefs", _HearsNoVoices), scenarios.crash_is_seen),
    "ignores names": (
        _replacing("_beliefs", _IgnoresNames),
        scenarios.rebirth_replaces_the_elder,
    ),
    "asks nobody else": (
        _replacing("_prober", _AsksNobodyElse),
        scenarios.nobody_dies_without_datagrams,
    ),
    "never syncs": (_replacing("_syncer", _NeverSyncs), scenarios.splits_heal),
    "asks seeds once": (
        _replacing("_syncer", _AsksSeedsOnce),
        scenarios.early_birds_find_late_seeds,
    ),
    "buries on hearsay": (_replacing("_syncer", _BuriesOnHearsay), scenarios.splits_heal),
    "whispers once": (
        _replacing("_state", _WhispersOnce),
        scenarios.facts_spread_within_a_second,
    ),
    "mute": (_replacing("_state", _Mute), scenarios.facts_spread_within_a_second),
}

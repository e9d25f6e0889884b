"""The machine alone, event by event: exact times, exact packets."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from mesh.errors import SetupError
from mesh.gossip import events as ev
from mesh.gossip import roster as rostering
from mesh.gossip.events import Kind
from mesh.gossip.member import Facts, Member, News, Status
from mesh.gossip.packets import Ack, Nack, Packet, Ping, PingRequest, Sync
from mesh.gossip.rules import Rules
from mesh.gossip.swim import Swim
from mesh.machine import TICK


def member(name: str, incarnation: int = 1, status: Status = Status.ALIVE, boot: int = 1) -> Member:
    return Member(name, boot, incarnation, status, f"{name}:1", Facts(name))


class Table:
    """One machine, called "a", and what it did; the others are played by the test."""

    def __init__(self, others: str = "", **named: Any) -> None:
        self.machine = Swim("m", member("a"), Random(1), **named)
        self.now_s = 0.0
        self.did: list[ev.Action] = []
        if others:
            self.tell(*(News(member(name)) for name in others))
            self.run(0.9)  # rumours about them are out
            self.did.clear()

    def handle(self, event: Any) -> list[ev.Action]:
        done = self.machine.handle(event, self.now_s)
        self.machine.check()
        self.did += done
        return done

    def tell(self, *news: News, sender: str = "z") -> list[ev.Action]:
        return self.handle(ev.SyncReceived(Sync("m", sender, 1, news)))

    def hear(self, sender: str, *messages: Any, rumours: tuple[News, ...] = (), **head: Any):
        about = {"boot": 1, "incarnation": 1, "seen_boot": 1}
        about |= {"seen_incarnation": self.machine.me.incarnation} | head
        packet = Packet("m", sender, messages=messages, rumours=rumours, **about)
        return self.handle(ev.PacketReceived(packet, f"{sender}:1"))

    def run(self, seconds: float) -> None:
        """Ring every alarm in time."""
        until_s = self.now_s + seconds
        while (due_s := self.machine.wakeup_s()) is not None and due_s <= until_s:
            self.now_s = due_s
            self.handle(TICK)
        self.now_s = until_s

    def sent(self, kind: type) -> list[tuple[str, Any]]:
        found = [one for one in self.did if isinstance(one, ev.SendPacket)]
        return [
            (one.address, message)
            for one in found
            for message in one.packet.messages
            if isinstance(message, kind)
        ]

    def notices(self) -> list[tuple[Kind, str]]:
        return [(one.kind, one.member.id) for one in self.did if isinstance(one, ev.Notice)]

    def view(self) -> dict[str, Status]:
        return {one.id: one.status for one in self.machine.members() if one.id != "a"}

    def until_probe(self) -> Ping:
        """Run until the next probe of this node's own begins."""
        self.did.clear()
        while not self.sent(Ping):
            due_s = self.machine.wakeup_s()
            assert due_s is not None
            self.run(max(0.0, due_s - self.now_s))
        return self.sent(Ping)[0][1]


def started(others: str = "", **named: Any) -> Table:
    table = Table(others, **named)
    table.handle(ev.Started())
    return table


# Probing


def test_an_answered_probe_asks_nobody_else():
    table = started("b")
    ping = table.until_probe()
    table.hear("b", Ack(ping.seq, "b"))
    table.did.clear()
    table.run(0.6)
    assert [] == table.sent(PingRequest)
    assert {"b": Status.ALIVE} == table.view()


def test_silence_asks_helpers_then_suspects_then_buries():
    """Ping at 0, helpers and TCP at 0.5, verdict at 1.0, and nobody confirms."""
    table = started("bcde")
    ping = table.until_probe()
    since_s, target = table.now_s, ping.target
    table.did.clear()
    table.run(0.5)
    asked = table.sent(PingRequest)
    assert 3 == len(asked)
    assert {PingRequest(ping.seq, target, f"{target}:1")} == {request for _, request in asked}
    probe = next(one for one in table.did if isinstance(one, ev.ProbeStream))
    assert (ping.seq, target, f"{target}:1") == (probe.seq, probe.target, probe.address)
    assert 0.5 == pytest.approx(probe.timeout_s)
    for address, _ in asked:
        table.hear(address[0], Nack(ping.seq, target))
    table.run(0.5)
    assert Status.SUSPECT == table.view()[target]
    assert 1.0 == pytest.approx(table.now_s - since_s)
    assert 0 == table.machine.statistics()["health_score"]


def test_missing_nacks_are_our_own_fault():
    table = started("bcde")
    table.until_probe()
    table.run(1.0)
    assert 3 == table.machine.statistics()["health_score"]


def test_a_helper_alone_is_enough():
    table = started("bcde")
    ping = table.until_probe()
    table.run(0.5)
    table.hear("c", Ack(ping.seq, ping.target))
    table.run(0.6)
    assert Status.ALIVE == table.view()[ping.target]


def test_a_stream_alone_is_enough_and_noticed():
    table = started("b")
    ping = table.until_probe()
    table.run(0.5)
    table.handle(ev.StreamProbeAnswered(ping.seq, "b"))
    table.handle(ev.StreamProbeAnswered(ping.seq, "b"))
    assert [(Kind.STREAM_ONLY, "b")] == table.notices()
    assert {"b": Status.ALIVE} == table.view()


def test_answers_to_other_questions_count_for_nothing():
    table = started("bc")
    ping = table.until_probe()
    other = "c" if ping.target == "b" else "b"
    for wrong in (Ack(ping.seq, other), Ack(ping.seq + 9, ping.target), Nack(ping.seq, other)):
        table.hear(other, wrong)
    table.run(1.0)
    assert Status.SUSPECT == table.view()[ping.target]


def test_who_spoke_during_the_probe_is_not_accused():
    table = started("b")
    table.until_probe()
    table.hear("c", rumours=(News(member("b", 2)),), seen_incarnation=1)
    table.run(1.0)
    assert Status.ALIVE == table.view()["b"]


def test_who_left_during_the_probe_is_not_accused():
    table = started("b")
    table.until_probe()
    table.tell(News(member("b", 1, Status.LEFT)))
    table.run(1.0)
    assert Status.LEFT == table.view()["b"]


def test_a_ping_is_answered_only_by_whom_it_is_for():
    table = Table("b")
    table.hear("b", Ping(7, "a"))
    table.hear("b", Ping(8, ""))
    table.hear("b", Ping(9, "somebody who lived here"))
    assert [("b:1", Ack(7, "a")), ("b:1", Ack(8, "a"))] == table.sent(Ack)
    assert 1 == table.machine.statistics()["pings_for_others"]


def test_a_helper_passes_the_answer_on():
    table = Table("bc")
    table.hear("b", PingRequest(7, "c", "c:1"))
    [(address, ping)] = table.sent(Ping)
    assert ("c:1", "c") == (address, ping.target)
    table.hear("b", Ack(ping.seq, "c"))  # not the one who was asked
    assert [] == table.sent(Ack)
    table.hear("c", Ack(ping.seq, "c"))
    assert [("b:1", Ack(7, "c"))] == table.sent(Ack)


def test_a_helper_that_hears_nothing_says_so_in_time():
    """0.4 s, so that the nack arrives before the verdict; a late ack still helps."""
    table = Table("bc")
    table.hear("b", PingRequest(7, "c", "c:1"))
    [(_, ping)] = table.sent(Ping)
    table.run(0.39)
    assert [] == table.sent(Nack)
    table.run(0.02)
    assert [("b:1", Nack(7, "c"))] == table.sent(Nack)
    table.hear("c", Ack(ping.seq, "c"))
    assert [("b:1", Ack(7, "c"))] == table.sent(Ack)


def test_a_helper_forgets_in_the_end():
    table = Table("bc")
    table.hear("b", PingRequest(7, "c", "c:1"))
    [(_, ping)] = table.sent(Ping)
    table.run(2.0)
    table.hear("c", Ack(ping.seq, "c"))
    assert [] == table.sent(Ack)


def test_help_has_a_limit():
    table = Table("bc", rules=Rules(relays_max=1))
    table.hear("b", PingRequest(7, "c", "c:1"), PingRequest(8, "c", "c:1"))
    assert 1 == len(table.sent(Ping))
    assert 1 == table.machine.statistics()["relays_refused"]


# Suspicion


def suspected(others: str, *accusers: str) -> Table:
    table = Table(others)
    table.hear("c", rumours=(News(member("b", 1, Status.SUSPECT), accusers),))
    return table


@pytest.mark.parametrize(
    ("others", "accusers", "dead_s"),
    [
        ("bc", ["c"], 12.0),
        ("bc", ["c", "a"], 4.0),
        ("bcdef", ["c"], 24.0),
        ("bcdef", ["c", "d"], 11.38),
        ("bcdef", ["c", "d", "e"], 4.0),
        ("bcdef", ["c", "d", "e", "f"], 4.0),
        ("bcdef", ["c", "c", "c"], 24.0),
    ],
)
def test_voices_shorten_a_suspicion(others, accusers, dead_s):
    table = suspected(others, accusers[0])
    since_s = table.now_s
    for accuser in accusers[1:]:
        table.hear("c", rumours=(News(member("b", 1, Status.SUSPECT), (accuser,)),))
    table.run(dead_s - 0.01)
    assert Status.SUSPECT == table.view()["b"]
    table.run(0.02)
    assert Status.DEAD == table.view()["b"]
    assert (Kind.DIED, "b") in table.notices()
    assert dead_s + 0.01 == pytest.approx(table.now_s - since_s)


def test_a_refutation_ends_it():
    table = suspected("bc", "c")
    table.hear("c", rumours=(News(member("b", 2)),))
    table.run(60.0)
    assert {"b": Status.ALIVE, "c": Status.ALIVE} == table.view()
    assert (Kind.CLEARED, "b") in table.notices()


def test_a_suspect_hears_of_it_with_every_ping():
    table = started("bc")
    table.hear("c", rumours=(News(member("b", 1, Status.SUSPECT), ("c",)),))
    while table.until_probe().target != "b":
        pass
    sent = [one.packet for one in table.did if isinstance(one, ev.SendPacket)]
    [packet] = [one for one in sent if one.messages]
    assert News(member("b", 1, Status.SUSPECT), ("c",)) in packet.rumours


def test_a_dead_member_that_speaks_hears_that_it_is_dead():
    table = Table("bc")
    table.hear("c", rumours=(News(member("b", 1, Status.DEAD), ("c",)),))
    table.did.clear()
    table.hear("b", Ping(1, "a"))
    [sent] = [one for one in table.did if isinstance(one, ev.SendPacket)]
    assert News(member("b", 1, Status.DEAD), ("c",)) in sent.packet.rumours
    assert (Ack(1, "a"),) == sent.packet.messages


def test_who_was_told_out_of_turn_is_told_no_more_for_a_while():
    """Two nodes that suspect each other, and do not refute, must not answer without end."""
    table = Table("bc")
    table.hear("c", rumours=(News(member("b", 1, Status.DEAD), ("c",)),))
    table.did.clear()
    answers = [len(table.hear("b")) for _ in range(3)]
    table.now_s += 0.2
    answers.append(len(table.hear("b")))
    assert [1, 0, 0, 1] == answers


# Stalls


def test_a_stall_moves_every_deadline_that_others_had():
    table = suspected("bc", "c")
    dead_s = table.now_s + 12.0
    table.now_s = dead_s + 3.0
    table.handle(TICK)
    assert (Kind.STALLED, "a") in table.notices()
    assert Status.SUSPECT == table.view()["b"]
    assert 2 <= table.machine.statistics()["health_score"]
    table.run(30.0)
    assert Status.DEAD == table.view()["b"]


def test_a_small_delay_is_no_stall():
    table = started("b")
    due_s = table.machine.wakeup_s()
    assert due_s is not None
    table.now_s = due_s + 0.2
    table.handle(TICK)
    assert [] == table.notices()


# About this node


@pytest.mark.parametrize("status", [Status.SUSPECT, Status.DEAD, Status.LEFT])
def test_an_accusation_is_refuted(status):
    table = Table("b")
    table.hear("b", rumours=(News(member("a", 5, status), ("b",)),))
    assert (1, 6, Status.ALIVE) == (
        table.machine.me.boot,
        table.machine.me.incarnation,
        table.machine.me.status,
    )
    assert [(Kind.REFUTED, "a")] == table.notices()
    assert 1 == table.machine.statistics()["health_score"]


def test_false_facts_about_us_are_corrected():
    table = Table("b")
    table.tell(News(Member("a", 1, 1, Status.ALIVE, "elsewhere:1", Facts("a"))))
    assert 2 == table.machine.me.incarnation
    assert 0 == table.machine.statistics()["health_score"]


@pytest.mark.parametrize(
    "said", [member("a"), member("a", 0, Status.DEAD), member("a", 99, Status.DEAD, boot=0)]
)
def test_the_truth_and_old_lies_need_no_answer(said):
    table = Table("b")
    table.tell(News(said))
    assert 1 == table.machine.me.incarnation


@pytest.mark.parametrize("how", ["news", "sync", "packet"])
def test_a_later_process_with_our_identity_silences_us(how):
    """Contradicting it would never end; the shell stops this process."""
    table = started("b")
    later = News(member("a", 1, boot=2))
    if how == "news":
        table.hear("b", Ping(1, "a"), rumours=(later,))
    elif how == "sync":
        table.tell(later, News(member("c")))
    else:
        table.hear("a", boot=2)
    assert (Kind.SUPERSEDED, "a") in table.notices()
    assert table.machine.wakeup_s() is None
    assert [] == table.handle(TICK)


def test_an_echo_of_our_own_is_not_a_member():
    table = started("", seeds=("seed:1",))
    table.hear("a")
    table.hear("a", boot=0)
    assert {} == table.view()


def test_new_facts_raise_the_incarnation_and_load_alone_waits():
    table = Table("b")
    table.handle(ev.FactsTold(Facts("a", load=1.0)))
    assert 2 == table.machine.me.incarnation
    for load in (2.0, 3.0):
        table.handle(ev.FactsTold(Facts("a", load=load)))
    assert (2, 1.0) == (table.machine.me.incarnation, table.machine.me.facts.load)
    table.run(1.0)
    assert (3, 3.0) == (table.machine.me.incarnation, table.machine.me.facts.load)
    table.handle(ev.FactsTold(Facts("a", load=4.0)))
    table.handle(ev.FactsTold(Facts("a", load=4.0, draining=True)))
    assert (4, True) == (table.machine.me.incarnation, table.machine.me.facts.draining)
    table.run(5.0)
    table.handle(ev.FactsTold(table.machine.me.facts))
    assert 4 == table.machine.me.incarnation


def test_facts_that_do_not_fit_are_not_told():
    table = Table()
    with pytest.raises(SetupError):
        table.handle(ev.FactsTold(Facts("a" * 600)))
    assert 1 == table.machine.me.incarnation


def test_leaving_is_told_and_ends():
    table = started("bc")
    table.handle(ev.LeaveAsked())
    table.handle(ev.LeaveAsked())
    table.handle(ev.FactsTold(Facts("a", draining=True)))
    table.hear("b", rumours=(News(member("a", 1, Status.DEAD), ("b",)),))
    table.run(2.5)
    assert 1 == [kind for kind, _ in table.notices()].count(Kind.GONE)
    assert (1, Status.LEFT) == (table.machine.me.incarnation, table.machine.me.status)
    assert table.machine.wakeup_s() is None


def test_leaving_alone_takes_no_time():
    table = started()
    table.handle(ev.LeaveAsked())
    assert [(Kind.GONE, "a")] == table.notices()


def test_leaving_ends_even_if_the_news_cannot_spread():
    table = started("b", rules=Rules(gossip_interval_s=100.0))
    table.handle(ev.LeaveAsked())
    table.run(2.01)
    assert (Kind.GONE, "a") in table.notices()


# Who knows whom


def test_a_stranger_learns_us_and_we_learn_it():
    table = Table("b")
    [sent] = table.hear("new", Ping(1, ""), seen_boot=0)
    assert News(table.machine.me) in sent.packet.rumours
    assert (0, 0) == (sent.packet.seen_boot, sent.packet.seen_incarnation)
    [sent] = table.hear("new", seen_boot=0)
    assert "new:1" == sent.address


def test_who_is_ahead_of_our_knowledge_is_asked_by_an_empty_answer():
    table = Table("b")
    [sent] = table.hear("b", incarnation=9)
    assert ((), ()) == (sent.packet.messages, sent.packet.rumours)
    assert 1 == sent.packet.seen_incarnation


def test_the_first_met_is_asked_for_its_table():
    table = started()
    table.hear("b", rumours=(News(member("b")),))
    assert ev.StartSync("b:1") in table.did


def test_the_first_sync_is_news_to_nobody():
    table = Table()
    table.tell(News(member("b")), News(member("c")))
    assert {"b", "c"} == set(table.view())
    assert 0 == table.machine.statistics()["rumours_waiting"]
    table.tell(News(member("d")))
    assert 1 == table.machine.statistics()["rumours_waiting"]


def test_another_tables_dead_are_suspects_here():
    table = Table("bc")
    table.tell(
        News(member("b", 1, Status.DEAD), ("x",)),
        News(member("c", 1, Status.LEFT)),
        News(member("d", 1, Status.DEAD), ("x",), 40),
        News(member("a", 1, Status.DEAD), ("x",)),
        sender="y",
    )
    assert {"b": Status.SUSPECT, "c": Status.LEFT, "d": Status.DEAD} == table.view()
    assert 2 == table.machine.me.incarnation
    told = {one.member.id: one for one in table.machine.sync(table.now_s).news}
    assert ("x", "y") == told["b"].accusers
    assert 40 == told["d"].gone_s


def test_a_foreign_sync_changes_nothing():
    table = Table("b")
    table.handle(ev.SyncReceived(Sync("other", "z", 1, (News(member("c")),))))
    assert {"b"} == set(table.view())
    assert 1 == table.machine.statistics()["foreign"]


def test_a_full_table_learns_nobody(monkeypatch):
    monkeypatch.setattr(rostering, "MEMBERS_MAX", 1)
    table = Table("b")
    table.tell(News(member("c")))
    assert [] == table.hear("c")
    assert {"b"} == set(table.view())
    assert 1 == table.machine.statistics()["members_refused"]


# Names


def test_a_newer_process_takes_over_a_name_in_two_seconds():
    table = Table("bc")
    reborn = Member("b2", 9, 9, Status.ALIVE, "b:2", Facts("b"))
    table.tell(News(reborn))
    assert Status.SUSPECT == table.view()["b"]
    assert "b:1" in [one.address for one in table.did if isinstance(one, ev.SendPacket)]
    table.run(2.01)
    assert {"b2", "c"} == set(table.view())
    assert Status.DEAD == next(
        e.status for e in (n.member for n in table.machine.sync(0).news) if e.id == "b"
    )


def test_an_elder_that_lives_stays():
    table = Table("bc")
    table.tell(News(Member("b2", 9, 9, Status.ALIVE, "b:2", Facts("b"))))
    table.hear("b", rumours=(News(member("b", 2)),))
    table.run(30.0)
    assert {"b", "b2", "c"} == set(table.view())


def test_our_own_name_on_a_newer_process_is_noticed():
    table = Table()
    table.tell(News(Member("x", 9, 9, Status.ALIVE, "x:1", Facts("a"))))
    assert (Kind.NAME_TAKEN, "x") in table.notices()
    assert 1 == table.machine.statistics()["name_conflicts"]


def test_our_own_name_on_an_elder_is_a_leftover():
    table = Table()
    table.tell(News(Member("x", 0, 9, Status.ALIVE, "x:1", Facts("a"))))
    assert Status.SUSPECT == table.view()["x"]


# Seeds and syncs


def syncs(table: Table) -> list[str]:
    return [one.address for one in table.did if isinstance(one, ev.StartSync)]


def test_seeds_are_asked_at_once_and_again_every_half_second():
    table = started(seeds=("s:1", "t:1", "a:1"))
    assert ["s:1", "t:1"] == sorted(syncs(table))
    assert {"s:1", "t:1"} == {address for address, _ in table.sent(Ping)}
    for address in syncs(table):
        table.handle(ev.SyncEnded(address, ""))
    table.did.clear()
    table.run(0.61)
    assert ["s:1", "t:1"] == sorted(syncs(table))


def test_known_addresses_of_an_earlier_run_are_asked_too():
    table = started(known=("k:1",))
    assert ["k:1"] == syncs(table)


def test_a_sync_under_way_is_not_started_again():
    table = started(seeds=("s:1",))
    table.run(3.0)
    assert ["s:1"] == syncs(table)
    assert 0 < table.machine.statistics()["syncs_refused"]
    assert 1 == table.machine.statistics()["syncs_in_flight"]


def test_syncs_have_a_limit():
    table = started(seeds=("s:1", "t:1", "u:1"), rules=Rules(syncs_max=2))
    assert 2 == len(syncs(table))


def test_an_absent_seed_is_asked_for_ever():
    table = Table("b", seeds=("s:1", "b:1"))
    table.handle(ev.Started())
    table.handle(ev.SyncEnded("s:1", ""))
    table.run(200.0)
    assert "s:1" in syncs(table)


def test_a_seed_under_another_name_is_not_asked_again_while_it_is_here():
    """A name of a seed leads to a member whose address reads otherwise."""
    table = Table("b", seeds=("name:1", "mine:1"))
    table.handle(ev.Started())
    table.run(40.0)
    for address, by in (("name:1", "b"), ("mine:1", "a")):
        table.handle(ev.SyncEnded(address, by))
    table.tell(News(member("b", 2)))
    table.did.clear()
    table.run(11.0)
    assert not {"name:1", "mine:1"} & set(syncs(table))
    table.tell(News(member("b", 2, Status.LEFT)))
    table.run(11.0)
    assert "name:1" in syncs(table)


def test_the_dead_are_asked_now_and_then():
    table = Table("bcd")
    table.hear("c", rumours=(News(member("b", 1, Status.DEAD), ("c",)),))
    table.handle(ev.Started())
    table.did.clear()
    for _ in range(40):
        table.run(5.0)
        for address in ("b:1", "c:1", "d:1"):
            table.handle(ev.SyncEnded(address, address[0]))
            for name in "cd":
                table.tell(News(member(name, int(table.now_s) + 2)))
    assert "b:1" in syncs(table)


def test_news_for_nobody_is_dropped():
    table = started()
    table.handle(ev.FactsTold(Facts("a", roles=("embed",))))
    table.run(1.0)
    assert 0 == table.machine.statistics()["rumours_waiting"]


def test_statistics_name_the_accusers():
    table = suspected("bc", "c")
    found = table.machine.statistics()
    assert [{"member": "b", "by": ["c"]}] == found["last_accusations"]
    assert (3, 3, 1) == (found["members_present"], found["members_known"], found["suspicions"])
    assert 1 < table.machine.version
    assert Rules() == table.machine.rules

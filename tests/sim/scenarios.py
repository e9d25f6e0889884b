"""What a mesh must do within a known time, one small world each.

Each scenario takes the machine to test, so that the seeded bugs of `mutants` can be
put through the same. Bounds follow from the rules; the comment says how.
"""

from __future__ import annotations

from mesh.gossip.events import Kind
from mesh.gossip.lifeguard import patience
from mesh.gossip.member import Facts, Status
from mesh.gossip.rules import Rules
from mesh.gossip.swim import Swim
from tests.sim.world import Weather, World

RULES = Rules()
ROUGH = Weather(latency_s=0.05, jitter_s=0.05, loss=0.1, duplicate=0.05)


def joined(names: str, machine: type[Swim], weather: Weather | None = None, seed: int = 1) -> World:
    """Return a world in which everyone knows everyone."""
    world = World(seed, list(names), machine=machine, weather=weather)
    world.start_all()
    world.run_until(world.is_converged, 5.0)
    return world


def deaths(world: World, since_s: float = 0.0) -> list[tuple[float, str, str]]:
    """Return who declared whom dead, and when."""
    return [
        (at_s, host, notice.member.id)
        for at_s, host, notice in world.notices
        if notice.kind is Kind.DIED and at_s >= since_s
    ]


def is_gone(world: World, name: str) -> bool:
    """Whether every running node counts `name` as gone."""
    return all(
        not member.is_present
        for host in world.running()
        if host.machine is not None
        for member in host.machine.members()
        if member.facts.name == name and host.name != name
    )


def starters_meet_at_once(machine: type[Swim]) -> None:
    """Nodes with a reachable seed are known by all within a second."""
    world = World(1, list("abcdefgh"), machine=machine)
    world.start("a")
    world.run(20.0)
    for name in "bcdefgh":
        world.start(name)
        world.run_until(world.is_converged, 1.0, 0.01)


def early_birds_find_late_seeds(machine: type[Swim]) -> None:
    """A node that started before its seeds finds them within two seconds of their start."""
    world = World(2, list("abc"), machine=machine, seeds=1)
    world.start("c")
    world.start("b")
    world.run(60.0)
    world.start("a")
    world.run_until(world.is_converged, 2.0, 0.01)


def facts_spread_within_a_second(machine: type[Swim]) -> None:
    """What a node says about itself is known by all within a second, also under loss."""
    for seed in range(5):
        world = joined("abcdefgh", machine, Weather(loss=0.05), seed)
        for count in range(1, 4):
            world.run(3.0)
            world.tell("b", Facts("b", roles=("role",) * count))
            world.run_until(world.is_converged, 1.0, 0.01)


def missed_news_is_made_up(machine: type[Swim]) -> None:
    """Who missed a rumour learns it with the next ping to or from its subject."""
    for seed in range(5):
        world = joined("abcd", machine, seed=seed)
        world.cut(["b"], list("acd"))
        world.tell("b", Facts("b", roles=("embed",)))
        world.run(2.0)
        world.heal()
        world.run_until(world.is_converged, 2.0 + RULES.probe_interval_s)


def crash_is_seen(machine: type[Swim]) -> None:
    """A killed node is gone within the bound that the rules give, at every size.

    Worst case: each prober has just asked it and shuffles it to the end (2 n - 1 probes),
    its probe runs out, then a suspicion whose confirmations need a tick and a probe each.
    Usually somebody asks within two seconds, whatever the size.
    """
    took_s = []
    for names in ("ab", "abc", "abcd", "abcdefgh"):
        for seed in range(4):
            world = joined(names, machine, seed=seed)
            world.run(5.0 + seed / 4)
            world.crash("a")
            least_s = patience(len(names), RULES.suspicion_mult, RULES.probe_interval_s).min_s
            bound_s = (2 * len(names) - 1 + 1 + 2) * RULES.probe_interval_s + least_s
            took_s.append(world.run_until(lambda: is_gone(world, "a"), bound_s) - least_s)  # noqa: B023
    assert sum(took_s) / len(took_s) < 4.0, took_s


def three_see_a_kill_in_ten_seconds(machine: type[Swim]) -> None:
    """The promise to users: in a mesh of three a killed node is gone within ten seconds."""
    for seed in range(20):
        world = joined("abc", machine, seed=seed)
        world.run(10.0 + seed / 20)
        world.crash("abc"[seed % 3])
        world.run_until(world.is_converged, 10.0)


def restart_is_seen_at_once(machine: type[Swim]) -> None:
    """A node that starts again, at its address or another, is itself again within two seconds."""
    for how in ({}, {"new_address": True}):
        world = joined("abcd", machine)
        world.run(10.0)
        world.crash("c")
        world.run(1.0)
        world.start("c", **how)
        world.run_until(world.is_converged, 2.0, 0.01)


def rebirth_replaces_the_elder(machine: type[Swim]) -> None:
    """A node that lost its identity takes its name's place within a few seconds."""
    world = joined("abcd", machine)
    world.run(10.0)
    world.crash("c")
    world.start("c", new_id=True)
    world.run_until(world.is_converged, 4.0)
    for host in world.running():
        assert host.machine is not None
        assert ["a", "b", "c2", "d"] == [member.id for member in host.machine.members()]


def namesakes_do_not_flap(machine: type[Swim]) -> None:
    """Two living nodes with one name both stay, and somebody says so."""
    world = World(3, list("abcd"), machine=machine)
    world.start_all()
    world.run(5.0)
    world.tell("d", Facts("c"))
    world.run(5.0)
    world.crash("b")
    world.start("b", new_id=True)
    world.run_until(world.is_converged, 20.0)
    since_s = world.now_s
    world.run(60.0)
    assert not deaths(world, since_s)


def nobody_dies_of_weather(machine: type[Swim]) -> None:
    """10 % loss and delays up to 100 ms kill nobody: L2."""
    for seed, names in enumerate(("abc", "abcdefgh")):
        world = joined(names, machine, ROUGH, seed)
        world.run(600.0)
        assert not deaths(world), deaths(world)


def nobody_dies_without_datagrams(machine: type[Swim]) -> None:
    """Where UDP is blocked, TCP keeps everyone alive, and the nodes say so."""
    world = joined("abcd", machine)
    world.weather.loss = 0.0
    world.is_udp_blocked = True
    world.run(120.0)
    assert not deaths(world), deaths(world)
    assert world.counts["stream_only"] > 100


def pausing_is_forgiven(machine: type[Swim]) -> None:
    """Short pauses of one node kill nobody; long ones nobody but the paused one."""
    world = joined("abcdef", machine)
    for _ in range(20):
        world.pause("c")
        world.run(2.0)
        world.resume("c")
        world.run(8.0)
    assert not deaths(world), deaths(world)
    for _ in range(5):
        world.pause("c")
        world.run(30.0)
        world.resume("c")
        world.run(15.0)
        world.run_until(world.is_converged, 15.0)
    assert {"c"} == {victim for _, _, victim in deaths(world)}


def stalls_blame_nobody(machine: type[Swim]) -> None:
    """What a node missed while it stood still, it does not hold against others."""
    world = joined("abcd", machine, Weather(latency_s=0.1, jitter_s=0.02))
    for step in range(20):
        world.pause("c", is_deaf=True)
        world.run(2.0)
        world.resume("c")
        world.run(10.0 + step / 20)
    accused = [at_s for at_s, _, notice in world.notices if notice.by == ("c",)]
    assert not accused
    assert world.counts["stalled"] == 20


def strangers_change_nothing(machine: type[Swim]) -> None:
    """Packets of another mesh, of another secret, replayed ones and garbage are as nothing: S10."""
    for wire in ("objects", "plain", "sealed"):
        world = World(1, list("abc"), machine=machine, wire=wire)
        world.start_all()
        for _ in range(20):
            world.run(1.0)
            world.disturb()
        assert world.is_converged()


def resumed_in_time_is_alive(machine: type[Swim]) -> None:
    """A node that is suspected and then speaks again is cleared everywhere in two seconds."""
    for seed in range(5):
        world = joined("abcde", machine, seed=seed)
        world.pause("b")
        world.run_until(lambda: world.counts["suspected"] > 0, 10.0)  # noqa: B023
        world.run(1.0)
        world.resume("b")
        world.run_until(world.is_converged, 2.5)
        assert not deaths(world)


def splits_heal(machine: type[Swim]) -> None:
    """After a long partition both sides are one again: rejoin, refute, spread."""
    for seed in range(3):
        world = joined("abcdef", machine, seed=seed)
        world.cut(list("ab"), list("cdef"))
        world.run(240.0)
        assert is_gone(world, "a") is False
        world.heal()
        healed_s = world.now_s
        world.run_until(world.is_converged, 2 * RULES.rejoin_interval_s + 5.0)
        assert not deaths(world, healed_s), "the dead of the other side are suspects here"


def half_deaf_node_harms_nobody(machine: type[Swim]) -> None:
    """A node that can send but hears nothing may believe all dead; the others live on: L6."""
    for names in ("abc", "abcde"):
        world = joined(names, machine)
        rest = list(names[1:])
        world.cut(rest, ["a"], both=False)
        world.run(120.0)
        wrong = [one for one in deaths(world) if one[1] != "a" and one[2] != "a"]
        assert not wrong, wrong
        changes = sum(1 for at_s, host, _ in world.notices if at_s > 60.0 and host != "a")
        assert changes <= 4 * len(rest) * 60, changes  # bounded: a few a second for each observer


def leavers_are_let_go(machine: type[Swim]) -> None:
    """A node that leaves is gone everywhere within a second, by nobody's verdict."""
    world = joined("abcde", machine)
    world.leave("d")
    world.run_until(lambda: is_gone(world, "d"), 1.0, 0.01)
    world.run(60.0)
    assert not deaths(world)
    left = [m.status for h in world.running() if h.machine for m in h.machine.members()]
    assert 4 == left.count(Status.LEFT)
    assert 1 == world.counts["gone"]


def quiet_mesh_is_quiet(machine: type[Swim]) -> None:
    """Nothing happens: a ping and an ack per node and second, no rumours."""
    world = joined("abcdefgh", machine)
    world.run(10.0)
    before, since_s = world.counts["sent"], world.now_s
    world.run(60.0)
    assert world.counts["sent"] - before <= 2.2 * 8 * (world.now_s - since_s)


SCENARIOS = [
    starters_meet_at_once,
    early_birds_find_late_seeds,
    facts_spread_within_a_second,
    missed_news_is_made_up,
    crash_is_seen,
    three_see_a_kill_in_ten_seconds,
    restart_is_seen_at_once,
    rebirth_replaces_the_elder,
    namesakes_do_not_flap,
    nobody_dies_of_weather,
    nobody_dies_without_datagrams,
    pausing_is_forgiven,
    stalls_blame_nobody,
    strangers_change_nothing,
    resumed_in_time_is_alive,
    splits_heal,
    half_deaf_node_harms_nobody,
    leavers_are_let_go,
    quiet_mesh_is_quiet,
]

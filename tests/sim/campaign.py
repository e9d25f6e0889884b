"""Campaigns of random worlds: a seed draws the faults, laws are checked at every step.

    python -m tests.sim.campaign --seeds 1000            a campaign
    python -m tests.sim.campaign --seed 17 --trace       one world, told event by event
    python -m tests.sim.campaign --seed 17 --shrink      the fewest faults that still break it

Each world has a stormy phase, with the classes of faults that its seed has drawn,
and a calm one, in which every running node must come to see all running nodes.
"""

# ruff: noqa: T201 - a program: it prints

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mesh.gossip.lifeguard import patience
from mesh.gossip.member import Facts
from mesh.gossip.rules import Rules
from mesh.gossip.swim import Swim
from tests.sim.world import Weather, World

STORM_S = 40.0
PACKETS_MAX_PER_S = 40  # of one node, on average: gossip at full rate and every answer to it
FAULTS = ("crash", "restart", "move", "reborn", "pause", "cut", "oneway", "clog", "leave", "tell")
MUST_HAPPEN = {  # what a campaign must have seen, so that its silence means something
    *(f"fault.{fault}" for fault in FAULTS),
    *("lost", "duplicated", "corrupted", "suspected", "cleared", "refuted", "died", "left"),
    *("stalled", "stream_only", "gone", "foreign_mesh", "wrong_seal", "replayed"),
}


@dataclass(frozen=True)
class Fault:
    """One line of a world's script."""

    at_s: float
    kind: str
    host: str
    others: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Script:
    """Everything that a seed decides before the run."""

    seed: int
    names: tuple[str, ...]
    weather: Weather
    wire: str
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        """Return the expansion of the seed, as it is printed with a failure."""
        lines = [f"seed {self.seed}: {len(self.names)} nodes, {self.wire}, {self.weather}"]
        lines += [
            f"  {one.at_s:7.3f} {one.kind:<8} {one.host} {' '.join(one.others)} {one.seconds:.2f}"
            for one in self.faults
        ]
        return "\n".join(lines)


def draw(seed: int) -> Script:
    """Expand a seed: first which classes of faults there are, then each fault."""
    rng = Random(f"{seed}/script")
    names = tuple("abcdefgh"[: rng.randint(3, 8)])
    enabled = [fault for fault in FAULTS if rng.random() < 0.5] or ["crash"]
    weather = Weather(
        latency_s=rng.choice((0.0005, 0.005, 0.04)),
        jitter_s=rng.choice((0.0005, 0.01, 0.12)),
        loss=rng.choice((0.0, 0.05, 0.2, 0.4)),
        duplicate=rng.choice((0.0, 0.15)),
        corrupt=rng.choice((0.0, 0.05)),
    )
    wire = rng.choice(("objects", "objects", "plain", "sealed"))
    faults, at_s = [], 1.0
    pace_s = rng.choice((1.0, 3.0, 8.0))
    while (at_s := at_s + rng.expovariate(1 / pace_s)) < STORM_S:
        others = tuple(rng.sample(names, rng.randint(1, len(names) - 1)))
        length_s = rng.choice((0.1, 0.6, 2.0, 6.0, 20.0)) * rng.uniform(0.5, 1.5)
        faults.append(Fault(at_s, rng.choice(enabled), rng.choice(names), others, length_s))
    return Script(seed, names, weather, wire, tuple(faults))


def inflict(world: World, fault: Fault) -> None:
    """Let one fault happen; where it cannot, nothing does."""
    host = world.hosts[fault.host]
    up = host.machine is not None and not host.is_paused
    world.counts[f"fault.{fault.kind}"] += 1
    match fault.kind:
        case "crash" if up and len(world.running()) > 1:
            world.crash(host.name)
        case "restart" | "move" | "reborn":
            world.crash(host.name)
            world.start(host.name, new_address=fault.kind == "move", new_id=fault.kind == "reborn")
        case "pause" if up:
            world.pause(host.name)
            generation = host.generation
            world.later(
                fault.seconds, lambda: host.generation == generation and world.resume(host.name)
            )
        case "cut" | "oneway":
            rest = [name for name in world.hosts if name not in fault.others]
            world.cut(list(fault.others), rest, both=fault.kind == "cut")
            world.later(fault.seconds, world.heal)
        case "clog":
            for other in fault.others:
                world.clog(host.name, other)
            world.later(fault.seconds, world.heal)
        case "leave" if up and len(world.running()) > 2:
            world.leave(host.name)
        case "tell" if up:
            roles = tuple(f"role{at}" for at in range(len(fault.others)))
            world.tell(host.name, Facts(host.name, roles=roles, load=fault.seconds))


def calm_bound_s(nodes: int, rules: Rules) -> float:
    """Return how long a calm mesh may take to agree.

    A rejoin reaches the other side, a wrong verdict or an open suspicion runs out,
    the news spreads; a node that was unwell first has to get well.
    """
    longest = patience(nodes, rules.suspicion_mult, rules.probe_interval_s).max_s
    return rules.sync_interval_s + 2 * longest + 2 * rules.rejoin_interval_s


def calm_down(world: World, weather: Weather) -> None:
    """End all faults, start whoever is down."""
    world.heal()
    world.weather = Weather(weather.latency_s, min(weather.jitter_s, 0.01))
    for host in world.hosts.values():
        if host.is_paused:
            world.resume(host.name)
        if host.machine is None:
            world.start(host.name)


def play(script: Script, machine: type[Swim] = Swim, *, is_traced: bool = False) -> World:
    """Run one world; raises AssertionError if a law breaks."""
    world = World(
        script.seed, list(script.names), weather=script.weather, machine=machine, wire=script.wire
    )
    if is_traced:
        world.on_notice = lambda host, notice: print(
            f"{world.now_s:9.3f} {host} {notice.kind.value:<10} {notice.member.id}"
            f"@{notice.member.incarnation} by={','.join(notice.by)} {notice.seconds:.2f}"
        )
    world.start_all(spread_s=0.1)
    for fault in script.faults:
        world.later(fault.at_s - world.now_s, lambda fault=fault: inflict(world, fault))
    world.later(5.0, world.disturb)
    world.run(STORM_S)
    calm_down(world, script.weather)
    world.run_until(world.is_converged, calm_bound_s(len(script.names), world.rules), 0.5)
    assert world.counts["sent"] <= PACKETS_MAX_PER_S * len(script.names) * world.now_s
    return world


def verdict(script: Script, machine: type[Swim] = Swim) -> str | None:
    """Return what broke, or None."""
    try:
        play(script, machine)
    except AssertionError as broken:
        return str(broken) or repr(broken)
    return None


def shrink(script: Script, machine: type[Swim] = Swim) -> Script:
    """Return the script with every fault left out that the failure does not need."""
    faults = list(script.faults)
    for fault in script.faults:
        fewer = [one for one in faults if one is not fault]
        smaller = Script(script.seed, script.names, script.weather, script.wire, tuple(fewer))
        if verdict(smaller, machine):
            faults = fewer
    return Script(script.seed, script.names, script.weather, script.wire, tuple(faults))


def run_campaign(
    seeds: range, machine: type[Swim] = Swim, failed: Callable[[Script, str], None] | None = None
) -> tuple[Counter[str], list[int]]:
    """Play every seed; return what was seen, and the seeds that broke a law."""
    seen: Counter[str] = Counter()
    broken = []
    for seed in seeds:
        script = draw(seed)
        try:
            world = play(script, machine)
        except AssertionError as error:
            broken.append(seed)
            if failed:
                failed(script, str(error) or repr(error))
            continue
        seen.update(world.counts)
        seen["changes checked"] += world.laws.checked
        seen["virtual s"] += int(world.now_s)
    return seen, broken


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print every notice")
    parser.add_argument("--shrink", action="store_true", help="leave out faults while it breaks")
    asked = parser.parse_args()
    if asked.seed is not None:
        script = draw(asked.seed)
        script = shrink(script) if asked.shrink else script
        print(script)
        play(script, is_traced=asked.trace)
        return 0
    since_s = time.perf_counter()
    seeds = range(asked.first, asked.first + asked.seeds)
    seen, broken = run_campaign(seeds, failed=lambda script, why: print(f"{script}\n  {why}\n"))
    took_s = time.perf_counter() - since_s
    print(f"{len(seeds)} worlds, {seen['events']} events in {took_s:.1f} s; broken: {broken}")
    for name in sorted(seen):
        print(f"  {name:<20} {seen[name]}")
    print(f"  never seen: {sorted(MUST_HAPPEN - set(+seen))}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Large meshes on the production machine: how fast the dead are found, and who dies wrongly.

    python -m tests.sim.scale                              100 nodes, an hour, 10 % loss, 100 ms
    python -m tests.sim.scale --nodes 1000 --minutes 2
    python -m tests.sim.scale --table                      detection and spreading by size

Every node starts with everyone known. Links lose datagrams and delay everything.
"""

# ruff: noqa: T201 - a program: it prints

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

from mesh.gossip.events import Kind
from mesh.gossip.lifeguard import patience
from mesh.gossip.member import Facts, Member
from mesh.gossip.rules import Rules
from mesh.gossip.swim import Swim
from tests.sim.world import Weather, World

STEP_S = 60.0


def built(nodes: int, seed: int, loss: float, delay_s: float) -> World:
    """Return a running mesh."""
    weather = Weather(latency_s=delay_s, jitter_s=delay_s / 5, loss=loss)
    names = [f"n{at}" for at in range(nodes)]
    world = World(seed, names, weather=weather, is_checked=False, seeds=3)
    world.start_acquainted()
    return world


def seen_by_all(world: World, name: str, seconds: float, holds: Callable[[Member], bool]) -> float:
    """Return when every other running node sees `name` so that `holds`; inf: it never did."""
    since_s, others = world.now_s, [one for one in world.running() if one.name != name]
    while world.now_s - since_s < seconds:
        world.run(0.1)
        others = [one for one in others if not holds(_found(one.machine, name))]
        if not others:
            return world.now_s - since_s
    return float("inf")


def _found(machine: Swim | None, name: str) -> Member:
    assert machine is not None
    entry = machine._state.roster.get(name)
    assert entry is not None
    return entry.member


def accuracy(nodes: int, minutes: float, seed: int, loss: float, delay_s: float) -> int:
    """Run for `minutes` without any crash; return how many wrong verdicts there were."""
    since_s = time.perf_counter()
    world = built(nodes, seed, loss, delay_s)
    print(f"{nodes} nodes in {time.perf_counter() - since_s:.1f} s", flush=True)
    end_s = world.now_s + 60 * minutes
    while world.now_s < end_s:
        world.run(min(STEP_S, end_s - world.now_s))
        world.notices.clear()
        counts, took_s = world.counts, time.perf_counter() - since_s
        print(
            f"{world.now_s / 60:6.1f} min: {counts['events']} events, {counts['sent']} packets, "
            f"{counts['refuted']} refutations, {counts['died']} deaths; {took_s:.0f} s",
            flush=True,
        )
    print(f"wrong verdicts of death: {world.counts[Kind.DIED.value]}")
    return world.counts[Kind.DIED.value]


def table(sizes: list[int], seeds: int, loss: float, delay_s: float) -> None:
    """Print how long news and verdicts take, beside memberlist's formulas."""
    print("nodes  news to all s (max)   death to all s (max)   floor s  one voice s")
    rules = Rules()
    for nodes in sizes:
        news, deaths = [], []
        for seed in range(seeds):
            world = built(nodes, seed, loss, delay_s)
            world.run(5.0 + seed / 7)
            world.tell("n1", Facts("n1", roles=("told",)))
            news.append(seen_by_all(world, "n1", 60.0, lambda one: bool(one.facts.roles)))
            world.crash("n0")
            deaths.append(seen_by_all(world, "n0", 200.0, lambda one: not one.is_present))
        bounds = patience(nodes, rules.suspicion_mult, rules.probe_interval_s)
        print(
            f"{nodes:5}  {median(news):8.1f} ({max(news):.1f})        {median(deaths):8.1f} "
            f"({max(deaths):.1f})        {bounds.min_s:7.1f}  {bounds.max_s:7.1f}",
            flush=True,
        )


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loss", type=float, default=0.1)
    parser.add_argument("--delay-ms", type=float, default=100.0)
    parser.add_argument("--table", action="store_true", help="by size, several seeds each")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 3, 5, 10, 30, 100])
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    delay_s = asked.delay_ms / 1000
    if asked.table:
        table(asked.sizes, asked.seeds, asked.loss, delay_s)
        return 0
    return min(1, accuracy(asked.nodes, asked.minutes, asked.seed, asked.loss, delay_s))


if __name__ == "__main__":
    sys.exit(main())

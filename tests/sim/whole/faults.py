"""Faults happen to a simulated mesh: as a script says, or each when the last one is over.

Shell. A fault that cannot happen, as its host is down already, does not.
"""

from __future__ import annotations

from tests.sim.whole.process import Process
from tests.sim.whole.scripts import ORDERLY, Fault
from tests.sim.whole.town import Town
from tests.sim.world import Weather

SETTLE_S = 2.0  # between two faults of a steady world
LOOK_S = 0.5
STRIKE_S = 0.05  # of a batch, or of a stream's first piece


def inflict(world: Town, fault: Fault) -> None:
    """Let one fault happen; where it cannot, nothing does."""
    name, process = fault.host, world.processes.get(fault.host)
    if process is None or process.is_paused or process.is_leaving:
        return
    world.counts[f"fault.{fault.kind}"] += 1
    world.tell_tale("FAULT", fault)
    world.laws_of_flow.unrest()
    if fault.kind not in ORDERLY:
        world.touched.add(name)
    match fault.kind:
        case "crash" | "off" | "move":
            _kill(world, fault)
        case "strike":
            process.struck_by = lambda: _strike(world, process, fault)
        case "pause":
            world.pause(name)
            world.later(fault.seconds, lambda: world.resume(name))
        case "cut" | "oneway":
            _cut(world, fault)
        case "slow":
            process.slowness = 5.0 + 40.0 * fault.size
            world.later(fault.seconds, lambda: setattr(process, "slowness", 1.0))
        case "lag":
            world.lags[name] = 0.02 + 0.2 * fault.size
            world.later(fault.seconds, lambda: world.lags.pop(name, None))
        case "jump":
            world.wall_jumps_s[name] = 3600.0 * (fault.size - 0.5)
        case "drain":
            if fault.size > 0.5:  # in the midst of long work
                process.slowness = 5.0 + 20.0 * fault.size
            world.drain(name)
            world.later(fault.seconds, lambda: _back(world, fault))
        case "epoch":
            text = world.publish(2 + int(2 * fault.size), 1 + int(8 * fault.size))
            process.post(lambda: process.keep(process.takeover.offer(text, "a person")))
        case "burst":
            world.laws_of_flow.burst_s = world.now_s
            world.crowd.burst(40 + int(160 * fault.size), 0.5 + fault.seconds / 3)


def _kill(world: Town, fault: Fault) -> None:
    world.crash(fault.host, is_silent=fault.kind == "off")
    world.later(fault.seconds, lambda: _back(world, fault, is_moved=fault.kind == "move"))


def _strike(world: Town, process: Process, fault: Fault) -> None:
    """Kill a process in the midst of the work that it has just begun."""
    process.struck_by = None

    def strike() -> None:
        if world.processes.get(fault.host) is process and not process.is_leaving:
            world.counts["struck at work"] += 1
            world.laws_of_flow.unrest()
            _kill(world, fault)

    world.later(STRIKE_S * fault.size, strike)


def _cut(world: Town, fault: Fault) -> None:
    """Cut one host off: from all, or so that it hears or says nothing."""
    others = [name for name in world.hosts if name != fault.host]
    sides = [[fault.host], others]
    if fault.size < 0.5:
        sides.reverse()
    world.cut(sides[0], sides[1], both=fault.kind == "cut")
    world.cut_off.add(fault.host)
    world.later(fault.seconds, world.heal)


def _back(world: Town, fault: Fault, *, is_moved: bool = False) -> None:
    """Start a host again, once it has ended."""
    if fault.host in world.processes:
        world.later(LOOK_S, lambda: _back(world, fault))
        return
    world.laws_of_flow.unrest()
    world.tell_tale("START", fault.host, "elsewhere" if is_moved else "")
    world.start(fault.host, new_address=is_moved)


def one_after_the_other(world: Town, faults: list[Fault], again_s: float = 0.0) -> None:
    """Inflict the next fault as soon as the mesh has settled after the last."""

    def look() -> None:
        flow = world.laws_of_flow
        is_over = world.now_s >= again_s and flow.unrest_s < world.now_s - SETTLE_S
        if not (is_over and world.is_settled):
            world.later(LOOK_S, look)
            return
        world.cut_off = set(filter(world.is_wary, world.cut_off))
        if faults and not world.crowd.is_closed:
            fault = faults.pop(0)
            inflict(world, fault)
            one_after_the_other(world, faults, world.now_s + fault.seconds)

    world.later(LOOK_S, look)


def calm_down(world: Town, weather: Weather) -> None:
    """End all faults, start whoever is down."""
    world.tell_tale("CALM")
    world.heal()
    world.lags.clear()
    world.weather = Weather(weather.latency_s, weather.jitter_s)
    for name in world.hosts:
        process = world.processes.get(name)
        if process is not None:
            process.struck_by = None
        if process is None:
            _back(world, Fault(0.0, "", name, 0.0, 0.0))
        elif process.is_paused:
            world.resume(name)
        elif process.is_leaving:
            _back(world, Fault(0.0, "", name, 0.0, 0.0))

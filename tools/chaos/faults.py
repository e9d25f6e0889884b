"""What is done to a mesh, one fault after another.

Shell. Each takes a scene, does its damage, and undoes it; node n0 is the door, n1 and n2
serve the roles, n3 only takes part.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tools.chaos.fabric import Line, die_with_parent, fill_disk, free_disk
from tools.chaos.scene import Scene

SILENT_S = 8.0  # longer than any verdict takes
HOLD_S = 4.0
HOGS = 4


async def kill(scene: Scene) -> None:
    """Kill -9 one of two replicas; it comes back after a while."""
    await _end_and_return(scene, 1, signal.SIGKILL)


async def pause(scene: Scene) -> None:
    """Stop a replica's process, and let it go on."""
    scene.hosts[1].send(signal.SIGSTOP)
    await asyncio.sleep(SILENT_S)
    scene.hosts[1].send(signal.SIGCONT)
    await scene.wait_whole()


async def short_pauses(scene: Scene) -> None:
    """Stop a replica for a second, several times: no reason to call it dead."""
    for _ in range(3):
        scene.hosts[1].send(signal.SIGSTOP)
        await asyncio.sleep(1.0)
        scene.hosts[1].send(signal.SIGCONT)
        await asyncio.sleep(1.0)


async def restart(scene: Scene) -> None:
    """Let a replica leave in order, and start it again."""
    await _end_and_return(scene, 1, signal.SIGTERM)


async def rolling_restart(scene: Scene) -> None:
    """Restart every node that is not the door, one after another."""
    for number in range(1, len(scene.hosts)):
        await _end_and_return(scene, number, signal.SIGTERM)


async def move(scene: Scene) -> None:
    """Kill a replica; it comes back with its identity under another address."""
    host = scene.hosts[1]
    await host.end(signal.SIGKILL)
    host.move()
    await host.start()
    await scene.wait_whole()


async def door(scene: Scene) -> None:
    """Kill the door itself; the client asks the next one under the same ids."""
    await _end_and_return(scene, 0, signal.SIGKILL)


async def cut(scene: Scene) -> None:
    """Cut a replica off from every node, in both directions."""
    _cut(scene, 1, away=True, back=True)
    await asyncio.sleep(SILENT_S)
    await _healed(scene)


async def cut_from_door(scene: Scene) -> None:
    """Cut the line between door and replica only; the others see both."""
    assert scene.fabric is not None
    for line in ((0, 1), (1, 0)):
        scene.fabric.set(*line, Line(is_cut=True))
    await asyncio.sleep(SILENT_S)
    await _healed(scene)


async def deaf(scene: Scene) -> None:
    """Nothing reaches a replica any more; what it sends arrives."""
    _cut(scene, 1, away=False, back=True)
    await asyncio.sleep(SILENT_S)
    await _healed(scene)


async def mute(scene: Scene) -> None:
    """What a replica sends is lost; it hears everybody."""
    _cut(scene, 1, away=True, back=False)
    await asyncio.sleep(SILENT_S)
    await _healed(scene)


async def loss(scene: Scene) -> None:
    """Lose every fifth frame between any two nodes."""
    await _weather(scene, Line(loss_share=0.2))


async def delay(scene: Scene) -> None:
    """Delay every frame by 50 ± 10 ms, so that frames overtake each other."""
    await _weather(scene, Line(delay_s=0.05, jitter_s=0.01))


async def hog(scene: Scene) -> None:
    """Let strangers compete for the processors."""
    command = [sys.executable, "-c", "while True: pass"]
    hogs = [
        await asyncio.create_subprocess_exec(*command, preexec_fn=die_with_parent)
        for _ in range(HOGS)
    ]
    try:
        await asyncio.sleep(HOLD_S)
    finally:
        for one in hogs:
            one.kill()
            await one.wait()


async def disk(scene: Scene) -> None:
    """Fill the disk under a replica's data, change the topology, and restart it so."""
    host = scene.hosts[1]
    fill_disk(host.data)
    try:
        scene.change_topology(scene.hosts[2], tag="on a full disk")
        await scene.wait_whole()
        await _end_and_return(scene, 1, signal.SIGTERM)
    finally:
        free_disk(host.data)


async def topology(scene: Scene) -> None:
    """Change the topology three times, each at another node, one of them refused first."""
    extra = '[roles.extra]\nkind = "tools.chaos.roles:Work"\nnodes = ["n3"]\n'
    scene.hosts[3].topology.write_text('[mesh]\nname = "chaos"\nepoch = 99\n[roles.x]\nkind = "?"')
    scene.change_topology(scene.hosts[0], tag="one")
    await scene.wait_whole()
    scene.roles = {**scene.roles, "n3": {"extra"}}
    scene.change_topology(scene.hosts[2], tag="two", more=extra)
    await scene.wait_whole()
    scene.roles = {**scene.roles, "n3": set()}
    scene.change_topology(scene.hosts[3], tag="three")
    await scene.wait_whole()


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, and what must hold in it."""

    name: str
    act: Callable[[Scene], Awaitable[None]]
    recover_s_max: float
    needs_fabric: bool = False
    is_door: bool = False
    is_short: bool = False


# A killed node is missed at once, a silent one after gossip's or the pings' verdict. Bad weather
# disturbs for as long as it lasts.
FAULTS = (
    Fault("kill -9", kill, 1.0, is_short=True),
    Fault("stop, continue", pause, 5.0, is_short=True),
    Fault("short pauses", short_pauses, 8.0),
    Fault("restart", restart, 1.0, is_short=True),
    Fault("rolling restart", rolling_restart, 1.0),
    Fault("topology change", topology, 1.0),
    Fault("other address", move, 1.0),
    Fault("door killed", door, 1.0, is_door=True),
    Fault("cut off", cut, 5.0, needs_fabric=True),
    Fault("cut from door", cut_from_door, 5.0, needs_fabric=True),
    Fault("deaf", deaf, 5.0, needs_fabric=True),
    Fault("mute", mute, 5.0, needs_fabric=True),
    Fault("20 % loss", loss, 12.0, needs_fabric=True),
    Fault("50 ± 10 ms", delay, 12.0, needs_fabric=True),
    Fault("cpu hog", hog, 12.0),
    Fault("full disk", disk, 1.0, needs_fabric=True),
)


async def _end_and_return(scene: Scene, number: int, how: int) -> None:
    host = scene.hosts[number]
    await host.end(how)
    if how == signal.SIGKILL:
        await asyncio.sleep(HOLD_S)  # long enough to be missed
    await host.start()
    await scene.wait_whole()


def _cut(scene: Scene, number: int, *, away: bool, back: bool) -> None:
    assert scene.fabric is not None
    for other in range(len(scene.hosts)):
        if other != number and away:
            scene.fabric.set(number, other, Line(is_cut=True))
        if other != number and back:
            scene.fabric.set(other, number, Line(is_cut=True))


async def _weather(scene: Scene, line: Line) -> None:
    """Let every line between nodes be bad for a while; the client's own stays good."""
    assert scene.fabric is not None
    numbers = range(len(scene.hosts))
    for source, target in ((a, b) for a in numbers for b in numbers if a != b):
        scene.fabric.set(source, target, line)
    await asyncio.sleep(SILENT_S)
    await _healed(scene)


async def _healed(scene: Scene) -> None:
    assert scene.fabric is not None
    scene.fabric.heal()
    with contextlib.suppress(asyncio.CancelledError):
        await scene.wait_whole()

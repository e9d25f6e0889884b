"""Small worlds told as a score: one line per event, one column per node.

    python -m tests.sim.transcript              compare every file with what happens now
    python -m tests.sim.transcript --rewrite    write what happens now; read the diff before
                                                you commit it, and only if you want it

A file is blocks of commands, `----`, and what followed. Commands: `nodes 4 seed=7
loss=0.1`, `start c`, `crash c`, `restart c moved|reborn`, `pause c`, `resume c`,
`cut c`, `deafen c` (it sends, but hears nothing), `heal`, `leave c`, `tell c role`,
`block-udp`, `run 6`. Equal events of several nodes within 50 ms share a line.
"""

# ruff: noqa: T201 - a program: it prints

from __future__ import annotations

import sys
from pathlib import Path

from mesh.gossip.events import Kind, Notice
from mesh.gossip.member import Facts
from tests.sim.world import Weather, World

FOLDER = Path(__file__).parent / "transcripts"
TOGETHER_S = 0.05
LETTERS = {
    Kind.JOINED: "J",
    Kind.UPDATED: "U",
    Kind.SUSPECTED: "S",
    Kind.CLEARED: "C",
    Kind.DIED: "D",
    Kind.LEFT: "L",
    Kind.REFUTED: "R",
    Kind.STALLED: "T",
    Kind.STREAM_ONLY: "O",
    Kind.NAME_TAKEN: "N",
    Kind.SUPERSEDED: "X",
    Kind.GONE: "G",
}


class Stage:
    """Performs commands on a world."""

    def __init__(self) -> None:
        self.world = World(0, [])

    def perform(self, line: str) -> None:
        """Do what one line says."""
        word, *rest = line.split()
        options = dict(one.split("=") for one in rest if "=" in one)
        world, name = self.world, rest[0] if rest else ""
        match word:
            case "nodes":
                names = list("abcdefgh"[: int(name)])
                weather = Weather(loss=float(options.get("loss", 0)))
                self.world = World(int(options.get("seed", 1)), names, weather=weather)
                self.world.start_all()
                self.world.run_until(self.world.is_converged, 5.0)
                self.world.notices.clear()
            case "start":
                world.start(name)
            case "crash":
                world.crash(name)
            case "restart":
                world.crash(name)
                world.start(name, new_address="moved" in rest, new_id="reborn" in rest)
            case "pause":
                world.pause(name)
            case "resume":
                world.resume(name)
            case "cut":
                world.cut([name], list(world.hosts))
            case "deafen":
                world.cut(list(world.hosts), [name], both=False)
            case "heal":
                world.heal()
            case "leave":
                world.leave(name)
            case "tell":
                world.tell(name, Facts(name, roles=tuple(rest[1:])))
            case "block-udp":
                world.is_udp_blocked = True
            case "run":
                world.run(float(name))
            case _:
                raise ValueError(f"no such command: {line!r}")

    def told(self) -> list[str]:
        """Return what has happened since the last time."""
        names = list(self.world.hosts)
        lines = [f"{'t_s':>8}    {' '.join(names)}   event"]
        for at_s, hosts, notice in _together(self.world.notices):
            marks = " ".join(LETTERS[notice.kind] if name in hosts else "." for name in names)
            lines.append(f"{at_s:8.3f}    {marks}   {_sentence(notice)}")
        self.world.notices.clear()
        return lines


def _sentence(notice: Notice) -> str:
    member = notice.member
    said = f"{notice.kind.value} {member.id} inc={member.incarnation - member.boot}"
    if notice.by:
        said += f" by={','.join(sorted(notice.by))}"
    if notice.seconds:
        said += f" for={notice.seconds:.3f}"
    return said


def _together(notices: list[tuple[float, str, Notice]]) -> list[tuple[float, set[str], Notice]]:
    """Join what several nodes notice at nearly the same time."""
    joined: list[tuple[float, set[str], Notice]] = []
    for at_s, host, notice in notices:
        for since_s, hosts, other in joined:
            if at_s - since_s <= TOGETHER_S and _sentence(other) == _sentence(notice):
                hosts.add(host)
                break
        else:
            joined.append((at_s, {host}, notice))
    return joined


def retell(text: str) -> str:
    """Return the transcript with what its commands lead to now."""
    stage, lines, is_answer = Stage(), list[str](), False
    for line in text.splitlines():
        if is_answer:
            is_answer = bool(line.strip())
            if is_answer:
                continue
        lines.append(line)
        if line == "----":
            lines += stage.told()
            is_answer = True
        elif line.strip() and not line.startswith("#"):
            stage.perform(line)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compare or rewrite every file."""
    wrong = 0
    for path in sorted(FOLDER.glob("*.txt")):
        old = path.read_text()
        new = retell(old)
        if old != new:
            wrong += 1
            print(f"{path.name}: {'rewritten' if '--rewrite' in sys.argv else 'differs'}")
            if "--rewrite" in sys.argv:
                path.write_text(new)
    return 0 if "--rewrite" in sys.argv else wrong


if __name__ == "__main__":
    sys.exit(main())

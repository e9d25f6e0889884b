"""Clients before a simulated mesh: they ask, wait, and ask another door when one dies.

Shell. A client behaves as `mesh.client` does: refused, reset or told that the door leaves, it
asks the next one with the same id, and takes any other error for the answer. Beside that it
loses patience with a door that says nothing, goes away now and then, or asks two doors at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from mesh.errors import MeshError
from mesh.policy.request import Priority

if TYPE_CHECKING:
    from tests.sim.whole.process import Process
    from tests.sim.whole.town import Town

NEAR_S = 0.001  # a client is in the network of its doors
PATIENCE_S = 7.0  # with a door that says nothing: longer than a mesh needs to recover
GRACE_S = 1.0  # a door says at the deadline that it has passed; so long that is waited for
AGAIN_S = 0.1  # no door was ready
ELSEWHERE = {"unreachable", "connection_lost", "draining"}  # at the door itself


@dataclass(eq=False)
class Ask:
    """One request, wherever it is asked."""

    number: int
    pipeline: str
    doors: list[str]
    seconds: float
    has_own_id: bool = True
    wants_pieces: bool = False
    gives_up_s: float | None = None
    priority: Priority = Priority.NORMAL
    twin: Ask | None = None  # the same request, asked elsewhere at the same time or after
    began_s: float = 0.0
    ended_s: float | None = None
    outcome: str = ""
    said: str = ""
    visits: list[Visit] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What is asked: twins ask the same."""
        return f"q{self.twin.number if self.twin else self.number}"

    @property
    def id(self) -> str:
        """The request id."""
        return f"id-{self.text}"

    @property
    def until_s(self) -> float:
        """World time of the deadline."""
        return self.began_s + self.seconds

    def __str__(self) -> str:
        """Say it for a transcript."""
        doors = ">".join(visit.process.label for visit in self.visits)
        took_s = (self.ended_s or self.began_s) - self.began_s
        return f"{self.text} {self.pipeline} by {doors}: {self.outcome} after {took_s:.3f} s"


class Visit:
    """One ask at one door."""

    def __init__(self, crowd: Crowd, ask: Ask, process: Process) -> None:
        self._crowd, self.ask, self.process = crowd, ask, process
        self.left_s = max(0.001, ask.until_s - crowd.world.now_s - NEAR_S)
        self.began_s = crowd.world.now_s
        self.pieces: list[str] = []
        self.replies = 0  # final ones that left the door
        self.is_over = False
        self.is_cut_off = process.name in crowd.world.cut_off  # it may find nobody
        self._last_s = 0.0

    def reply(self, kind: str, value: Any, deadline_s: float) -> None:
        """Send something to the client; runs at the door."""
        self._crowd.world.laws_of_flow.replied(self, kind, deadline_s)
        self._send(kind, value)

    def broke(self, *, is_silent: bool) -> None:
        """End without an answer: the door is gone, or has let go of it."""
        if not is_silent and not self.replies:
            self._send("reset", None)

    def _send(self, kind: str, value: Any) -> None:
        world = self._crowd.world
        self._last_s = max(self._last_s, world.now_s + NEAR_S)
        world.at(self._last_s, lambda: self._crowd.hears(self, kind, value))


class Crowd:
    """Every client of a world."""

    def __init__(
        self, world: Town, pace_s: float, mix: tuple[str, ...], unasked: frozenset[int]
    ) -> None:
        self.world, self._pace_s, self._mix, self._unasked = world, pace_s, mix, unasked
        self._rng = Random(f"{world.seed}/crowd")
        self.asks: list[Ask] = []
        self.open: dict[Ask, None] = {}
        self.is_closed = False

    # -- asking -------------------------------------------------------------------------

    def come(self) -> None:
        """Send one client, and then the next."""
        if self.is_closed:
            return
        ask = self._drawn()
        self.begin(ask)
        if self._rng.random() < 0.15 and ask.has_own_id and not ask.wants_pieces:
            # Asks elsewhere too: at once, while it is answered, or long after that.
            delay_s = self._rng.choice((0.0, 0.03, 3.0))
            twin = Ask(len(self.asks), ask.pipeline, ask.doors[::-1], ask.seconds, twin=ask)
            self.asks.append(twin)
            self.world.later(delay_s, lambda: self.begin(twin))
        self.world.later(self._rng.expovariate(1 / self._pace_s), self.come)

    def _drawn(self) -> Ask:
        rng, pipeline = self._rng, self._rng.choice(self._mix)
        doors = list(self.world.hosts)
        rng.shuffle(doors)
        ask = Ask(
            len(self.asks),
            pipeline,
            doors,
            seconds=self.world.patience_s * rng.uniform(0.9, 1.1),
            has_own_id=rng.random() < 0.6,
            wants_pieces=pipeline in ("tell", "spell") and rng.random() < 0.7,
            gives_up_s=rng.uniform(0.0, 0.3) if rng.random() < 0.04 else None,
            priority=Priority(rng.choice((0, 1, 1, 2))),
        )
        if ask.wants_pieces:
            ask.has_own_id = False
        self.asks.append(ask)
        return ask

    def burst(self, count: int, seconds: float) -> None:
        """Ask much at once."""
        for _ in range(count):
            ask = self._drawn()
            ask.pipeline, ask.wants_pieces = "work", False
            ask.seconds, ask.gives_up_s = seconds, None
            self.begin(ask)

    def ask(self, pipeline: str, door: str, seconds: float = 10.0) -> Ask:
        """Ask one door, once."""
        ask = Ask(len(self.asks), pipeline, [door], seconds)
        self.asks.append(ask)
        self.begin(ask)
        return ask

    def begin(self, ask: Ask) -> None:
        """Ask the first door; who stays at home has been drawn all the same, as the others are."""
        if ask.number in self._unasked:
            return
        ask.began_s = self.world.now_s
        self.open[ask] = None
        self.world.counts["asked"] += 1
        self._visit(ask)
        self.world.later(ask.seconds + GRACE_S, lambda: self._lose(ask, "silence"))
        if ask.gives_up_s is not None:
            self.world.later(ask.gives_up_s, lambda: self._lose(ask, "gone"))

    def _visit(self, ask: Ask) -> None:
        world = self.world
        if ask.ended_s is not None:
            return
        if world.now_s + AGAIN_S >= ask.until_s:
            self._end(ask, "no door", "")
            return
        for door in ask.doors:
            process = world.processes.get(door)
            if process is not None and process.is_ready:
                ask.doors.remove(door)
                ask.doors.append(door)  # the last to be asked again
                break
        else:
            world.later(AGAIN_S, lambda: self._visit(ask))
            return
        visit = Visit(self, ask, process)
        ask.visits.append(visit)
        world.later(NEAR_S, lambda: self._arrive(visit))
        world.later(PATIENCE_S, lambda: self._tire(visit))

    def _arrive(self, visit: Visit) -> None:
        process = visit.process
        if process.is_dead or not process.is_listening:
            if not self.world.is_off(process.address):
                visit.broke(is_silent=False)
            return
        process.post(process.knock, visit)

    # -- being answered -----------------------------------------------------------------

    def hears(self, visit: Visit, kind: str, value: Any) -> None:
        """Take what a door said."""
        ask = visit.ask
        if visit.is_over:
            return
        if kind == "piece":
            visit.pieces.append(value)
            return
        visit.is_over = True
        if ask.ended_s is not None:
            return
        code = value.code if isinstance(value, MeshError) else kind
        is_own = isinstance(value, MeshError) and value.node in ("", visit.process.name)
        if kind == "reset" or (code in ELSEWHERE and is_own and not visit.pieces):
            self._go_on(ask)
        elif kind == "done":
            self._end(ask, "done", value)
        else:
            self._end(ask, code, str(value))

    def _go_on(self, ask: Ask) -> None:
        """Ask the next door: the same again, under the same id."""
        if ask.pipeline == "charge" and not ask.has_own_id:
            self._end(ask, "lost", "")  # nobody could tell whether it was done
            return
        self.world.counts["doors changed"] += 1
        self._visit(ask)

    def _tire(self, visit: Visit) -> None:
        """Leave a door that has said nothing, unless its answer is under way."""
        if visit.is_over or visit.pieces or visit.ask.ended_s is not None:
            return
        self.world.laws_of_flow.tired(visit)
        visit.is_over = True
        visit.process.post(visit.process.hang_up, visit)
        self._go_on(visit.ask)

    def _lose(self, ask: Ask, why: str) -> None:
        """Give up."""
        if ask.ended_s is not None:
            return
        for visit in ask.visits:
            if not visit.is_over:
                visit.process.post(visit.process.hang_up, visit)
        self._end(ask, why, "")

    def _end(self, ask: Ask, outcome: str, said: str) -> None:
        ask.ended_s, ask.outcome, ask.said = self.world.now_s, outcome, said
        del self.open[ask]
        for visit in ask.visits:
            visit.is_over = True
        self.world.counts[f"ask.{outcome}"] += 1
        self.world.laws_of_flow.ended(ask)

"""What must hold of every request in every simulated mesh: the ledger of a world.

Pure, but for the clock of its world. `whole.watch` tells it what production code does, clients
tell it what came of their requests. A broken law is kept, and ends the world after the event in
which it broke: what production code would do with an exception must not hide it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mesh.errors import NoOwner
from mesh.wire.messages import Call
from tests.sim.laws import Broken
from tests.sim.whole.clients import PATIENCE_S

if TYPE_CHECKING:
    from tests.sim.whole.clients import Ask, Visit
    from tests.sim.whole.process import Process
    from tests.sim.whole.town import Town

LATE_S = 0.05  # no request outlives its deadline by more
SPREAD_S = 2.5  # in a calm mesh everybody has heard by then that a node leaves
RECOVERY_S = 6.0  # a node that is silent, deaf or very slow holds nobody up for longer
STEPS = {"work": 1, "both": 2, "charge": 1, "tell": 1, "spell": 1}
ROLE_OF = {"both": "work"}  # of a pipeline of several stages: the last
PIECES = 6
FULL = {"overloaded", "attempts_spent", "deadline_exceeded", "no_capacity"}
CALM_S = 3.0  # what happened this long ago may still be under way to somebody
BURST_S = 8.0  # so long a burst of clients may be felt by others


class Flow:
    """The ledger of requests, and the laws about them."""

    def __init__(self, world: Town) -> None:
        self._world = world
        self.broken: list[Broken] = []
        self.runs: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.checked: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.unrest_s = 0.0  # when something last happened that may move requests
        self.burst_s = float("-inf")

    def law(self, holds: bool, name: str, *evidence: object) -> None:
        """Note a check, and its failure."""
        self.checked[name.split()[0]] += 1
        if not holds:
            self._world.tell_tale("BROKEN", name, *evidence)
            self.broken.append(Broken(f"{name}: {', '.join(map(str, evidence))}"))

    def unrest(self) -> None:
        """Note that something happened that may move requests, or answer them again."""
        self.unrest_s = self._world.now_s

    def is_calm_since(self, since_s: float) -> bool:
        """Whether nothing has happened since a moment of world time, nor just before it."""
        return self.unrest_s < since_s - CALM_S

    # -- on the way ---------------------------------------------------------------------

    def ran(self, process: Process, role: str, text: str, run: str) -> None:
        """An item is run."""
        item = text.split("|")[0]
        self.runs[role, item].append(run)
        until_s = process.told_s.get(f"id-{item}")
        if until_s is not None and process.paused_s < self._world.now_s - 1.0:
            late_s = process.loop.time() - until_s
            self.law(late_s <= LATE_S, "R1 nothing is begun after its deadline", run, late_s)

    def sent(self, process: Process, call: Call) -> None:
        """A call leaves a node."""
        until_s = process.told_s.get(call.request_id) if call.request_id else None
        if until_s is not None:
            left_s = until_s - process.loop.time()
            over_s = call.deadline_ms / 1000.0 - max(0.001, left_s)
            self.law(over_s <= 0.001, "R8 no hop is given more time than is left", call.to, over_s)

    @contextmanager
    def serving(self, process: Process, call: Call) -> Iterator[None]:
        """A call is answered by a node."""
        now_s, told_s = self._world.now_s, process.told_s
        until_s = process.loop.time() + call.deadline_ms / 1000.0
        told_s[call.request_id] = max(told_s.get(call.request_id, 0.0), until_s)
        is_new = now_s - process.left_at_s < SPREAD_S or not process.is_leaving
        is_told = self.unrest_s <= process.left_at_s
        if not call.to.startswith("mesh/"):
            self.law(is_new or not is_told, "D1 who leaves gets nothing new", process.label)
        try:
            yield
        except NoOwner as error:
            said = call.to.removeprefix("role/") in process.membership.me.facts.roles
            here = error.node == process.name and call.to.startswith("role/")
            self.law(not (said and here), "D2 what is announced is served", process.label, error)
            raise
        finally:
            self._check_late(process, until_s, now_s, call.to)

    def _check_late(self, process: Process, until_s: float, began_s: float, what: str) -> None:
        late_s = process.loop.time() - until_s
        if not process.is_dead and process.paused_s < began_s:
            self.law(late_s <= LATE_S, "R1 no request outlives its deadline", what, late_s)

    def replied(self, visit: Visit, kind: str, deadline_s: float) -> None:
        """A door says something to a client."""
        self._check_late(visit.process, deadline_s, visit.began_s, visit.ask.text)
        visit.replies += kind != "piece"
        self.law(visit.replies <= 1, "R4 one answer to a request", visit.ask.text, kind)
        self.law(kind != "piece" or not visit.replies, "R4 no piece after the end", visit.ask.text)

    def tired(self, visit: Visit) -> None:
        """A client leaves a door that has said nothing for a while."""
        ask, world = visit.ask, self._world
        if not world.is_steady or self._is_cut_off(visit) or _stood_still(visit):
            return
        is_felt = world.now_s - self.burst_s < BURST_S or ask.pipeline == "charge"
        lives = not visit.process.is_dead
        self.law(is_felt or not lives, "A5 no door that lives is silent for long", ask)

    # -- the end ------------------------------------------------------------------------

    def ended(self, ask: Ask) -> None:
        """A client has its answer, or has given up."""
        self._world.tell_tale("client", ask)
        self._check_silence(ask)
        if ask.outcome == "done":
            self._check_said(ask)
            self._check_pieces(ask)
            self._check_twin(ask)
        self._check_once(ask)
        if self._world.is_steady:
            self._check_served(ask)

    def _is_cut_off(self, visit: Visit) -> bool:
        return visit.is_cut_off or visit.process.name in self._world.cut_off

    def _check_silence(self, ask: Ask) -> None:
        """Whoever was asked and lives has said something."""
        if ask.outcome != "silence":
            return
        for visit in ask.visits:
            process = visit.process
            lives = not process.is_dead and not _stood_still(visit)
            is_left = self._world.now_s - visit.began_s < LATE_S
            self.law(not lives or is_left, "R1 a door that lives answers", ask)

    def _check_said(self, ask: Ask) -> None:
        item, *runs = ask.said.split("|")
        self.law(item == ask.text, "R0 an answer answers its question", ask, ask.said)
        self.law(len(runs) == STEPS[ask.pipeline], "R0 every stage has run", ask, ask.said)
        known = self.runs[ROLE_OF.get(ask.pipeline, ask.pipeline), item]
        self.law(runs[-1] in known, "R0 an answer is of a run", ask, ask.said)

    def _check_pieces(self, ask: Ask) -> None:
        if not ask.wants_pieces:
            return
        pieces = [piece.strip().split(":") for piece in ask.visits[-1].pieces]
        order = [int(at) for at, _ in pieces]
        self.law(order == list(range(PIECES)), "R4 every piece once, in order", ask, order)
        runs = {run for _, run in pieces}
        self.law(ask.pipeline == "tell" or len(runs) == 1, "R4 of one stream", ask, runs)

    def _check_twin(self, ask: Ask) -> None:
        if ask.twin is None or not self.is_calm_since(ask.twin.began_s):
            return
        if ask.twin.outcome == "done":
            self.law(ask.said == ask.twin.said, "R3 one id, one answer", ask, ask.twin)
            self._world.counts["twins agreed"] += 1

    def _check_once(self, ask: Ask) -> None:
        """What must not run twice does not, unless a client asks again when nobody knows."""
        if ask.pipeline != "charge":
            return
        first = ask.twin or ask
        runs = self.runs["charge", ask.text]
        both = [one for one in self._world.crowd.asks if (one.twin or one) is first]
        visits = sum(len(one.visits) for one in both)
        self.law(len(runs) <= visits, "R3 never twice for one question", ask, runs)
        if self.is_calm_since(first.began_s) and ask.has_own_id:
            self.law(len(runs) <= 1, "R3 computed once", ask, runs)

    def _check_served(self, ask: Ask) -> None:
        """One node at a time is in trouble: everybody else answers for it, and soon."""
        world = self._world
        if ask.outcome == "gone" or any(map(self._is_cut_off, ask.visits)):
            return
        is_calm = self.is_calm_since(ask.began_s) or world.is_orderly
        if ask.ended_s is not None and ask.began_s < self.burst_s + BURST_S < ask.ended_s + BURST_S:
            self.law(ask.outcome in FULL | {"done"} or not is_calm, "A2 refused, not failed", ask)
            return
        if not is_calm and (
            ask.pipeline == "charge" or (ask.pipeline == "spell" and ask.visits[-1].pieces)
        ):
            return
        self.law(ask.outcome == "done", "A1 nothing fails while a replica lives", ask, ask.said)
        tired_s = PATIENCE_S * (len(ask.visits) - 1)
        took_s = (ask.ended_s or 0.0) - ask.began_s - tired_s
        if ask.outcome == "done" and not _stood_still(ask.visits[-1]):
            self.slowest_s = max(self.slowest_s, took_s)
            own_s = 4.0 if ask.pipeline in ("tell", "spell") else 0.0
            self.law(took_s <= RECOVERY_S + own_s, "A3 nobody waits long for the silent", ask)


def _stood_still(visit: Visit) -> bool:
    """Whether the door was stopped while the client was there: it could say nothing."""
    return visit.process.is_paused or visit.process.paused_s >= visit.began_s


def at_rest(world: Town) -> None:
    """Check that nothing is left of any request at a quiet mesh."""
    flow = world.laws_of_flow
    flow.law(not world.crowd.open, "Q1 every client has ended", [*world.crowd.open])
    for process in world.processes.values():
        for what, count in _left(process).items():
            flow.law(not count, f"Q2 nothing is left: {what}", process.label, count)
    _agree(world)


def _left(process: Process) -> dict[str, Any]:
    """Return what a process holds, by name: all of it nothing, if it is at rest."""
    router, once = process.router.statistics(), process.once.statistics()
    edges = [edge for role in router["edges"].values() for edge in role.values()]
    local = process.local.statistics().values()
    return {
        "requests": process.admission.active,
        "calls served": process.serving.active,
        "tasks": process.strays(),
        "calls to roles": sum(edge["in_flight"] for edge in edges),
        "calls to peers": sum(one["in_flight"] for one in process.peers.statistics().values()),
        "requests by id": once["in_flight"],
        "who waits for a node in doubt": dict(process.router.doubts._waiting),
        "queued items": sum(one.get("queued", 0) for one in local),
        "running items": sum(one.get("running", 0) for one in local),
        "waits for deadlines": sum(map(len, process.local._deadlines._buckets.values())),
    }


def _agree(world: Town) -> None:
    """Check that all doors send equal keys to equal nodes."""
    views = []
    for process in world.processes.values():
        directory = process.directory
        keepers = [[e.name for e in directory.keepers(f"key{at}")] for at in range(20)]
        served = {
            role: [directory.ring(role).owners(f"key{at}", 3) for at in range(20)]
            for role in process.takeover.current.roles
        }
        views.append((keepers, served))
    same = all(view == views[0] for view in views)
    world.laws_of_flow.law(same, "S11 equal views, equal owners", [*world.processes])
    epochs = {process.takeover.current.mesh.epoch for process in world.processes.values()}
    world.laws_of_flow.law(len(epochs) <= 1, "S15 one topology in the end", epochs)

"""Roles of simulated nodes: every answer says which run made it, and every run is counted.

Shell. A lane computes in virtual time. What an item's answer is follows from its text and from
the run, so that a second run of the same item can be told from a copy of the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from mesh.flow.lane import Computed, run_batch
from mesh.roles.base import RESUME, Piece, Role, StreamRole, Whole
from mesh.wire.messages import Fields
from tests.sim.whole.loops import HostLoop

PIECES = 6  # of a streamed answer
PIECE_S = 0.15
SLOWNESS_MAX = 4.0  # of a stream: a slow node is not left for another, so its clients wait
LOAD_S = 0.2  # what a role takes to load
RUN_S = {"work": 0.06, "look": 0.01, "charge": 0.05}  # a batch


def process() -> Any:
    """Return the simulated process whose code runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HostLoop)
    return loop.process


class _Counted(Role):
    takes: ClassVar = {"text": str}
    gives = ("said",)

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        here = process()
        name = self.context.role
        return [{"said": f"{item['text']}|{here.ran(name, item['text'])}"} for item in batch]


class Work(_Counted):
    """What most roles are: it may run twice."""


class Look(_Counted):
    """Quick, and asked where its key belongs."""


class Charge(_Counted):
    """With effects outside: it must not run twice."""

    idempotent = False


class Spell(StreamRole):
    """An answer in pieces; a broken one is lost."""

    takes: ClassVar = {"text": str}
    gives = ("said",)

    async def stream(self, item: Fields, request: Any) -> Any:
        run = process().ran(self.context.role, item["text"])
        given = item.get(RESUME) or []
        for at in range(len(given), PIECES):
            await asyncio.sleep(PIECE_S * min(SLOWNESS_MAX, process().slowness))
            yield Piece({"said": f"{at}:{run} "})
        yield Whole({"said": f"{item['text']}|{run}"}, ran_ms=1000.0 * PIECES * PIECE_S)


class Tell(Spell):
    """An answer in pieces, which another node can go on with."""

    takes: ClassVar = {"text": str, RESUME: list | None}
    resumable = True


class SimLane:
    """Computes one batch at a time, in virtual time."""

    def __init__(self, kind: str, role: Role) -> None:
        self._role = role

    async def load(self) -> None:
        """Take the time that models take."""
        await asyncio.sleep(LOAD_S)

    def compute(self, items: Sequence[Fields], done: Callable[[Computed], None]) -> None:
        """Run a batch; its answers come when its time is over."""
        here = process()
        began_s = here.loop.time()
        answers = run_batch(self._role, items).answers
        seconds = RUN_S[self._role.context.role] * here.slowness
        end = lambda: done(Computed(answers, began_s, here.loop.time()))  # noqa: E731
        here.loop.call_later(seconds, end)

    async def aclose(self) -> None:
        """Nothing is held."""

"""The contract between a role and the node that runs it.

A role is what a node can do with a batch of items. It knows nothing of sockets,
queues or other nodes: it gets a `Context`, and items that are ready to run.

    class Shout(Role):
        takes = {"text": str}
        gives = ("text",)

        def run(self, batch):
            return [{"text": item["text"].upper()} for item in batch]
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mesh.policy.request import Request
from mesh.wire.messages import Fields

RESUME = "resume"
"""Field of an item that another node began: the fields of every piece that it gave, or None.

The role gives no piece of these again, and its `Whole` counts them in.
"""


@dataclass(frozen=True, slots=True)
class Context:
    """What a node hands to a role.

    Attributes:
        role: the role's name in the topology.
        options: the role's own keys in the topology, unread by the mesh.
        model: the `source` of the model that the role names, or "".
        data: the node's folder for what it writes.
        device: "cpu" or "cuda".
        threads: how many threads the role may compute with.
        call: asks another role of the mesh: `await context.call("embed", {"text": …}, request)`.
        links: ways to other nodes, if the role's layers are split over several: `flow.stages`.
    """

    role: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    data: Path = Path("var")
    device: str = "cpu"
    threads: int = 1
    call: Callable[[str, Fields, Request], Awaitable[Fields]] | None = None
    links: Any = None


class Role:
    """A role that answers a batch at once. Subclass it; `run` is all that is required."""

    takes: ClassVar[Mapping[str, Any]] = {}
    """Names of an item's fields, with types, e.g. `{"text": str}`; `X | None` is optional."""
    gives: ClassVar[tuple[str, ...]] = ()
    """Names of the fields of an answer."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Names of the role's own keys in the topology, with their defaults; others are refused."""
    idempotent: ClassVar[bool] = True
    """Whether an item may run twice: only then is it retried after it may have begun, or hedged."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def load(self) -> None:
        """Make ready: read models, warm up. Runs on the role's lane and may take minutes."""

    def cost(self, item: Fields) -> int:
        """Return the item's share of a batch, in units of `batch.cost_max`; runs on the loop."""
        return 1

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Answer each item, in order; runs on the role's lane.

        An exception in an item's place fails that item only. A raise fails no other item
        either: the batcher then runs the items one by one.
        """
        raise NotImplementedError

    def statistics(self) -> dict[str, Any]:
        """Return what `/stats` shows of this role: JSON values."""
        return {}

    def close(self) -> None:
        """Release what `load` took."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a streamed answer: what is new since the part before, e.g. `{"answer": " a"}`."""

    fields: Fields


@dataclass(frozen=True, slots=True)
class Whole:
    """The end of a streamed answer: all of its fields."""

    fields: Fields
    queued_ms: float = 0.0
    ran_ms: float = 0.0
    batch_size: int = 1


class StreamRole(Role):
    """A role that answers piece by piece and forms its own batches, such as `generate`."""

    resumable: ClassVar[bool] = False
    """Whether another node can go on with a broken stream: `takes` then names `RESUME`."""

    def stream(self, item: Fields, request: Request) -> AsyncIterator[Piece | Whole]:
        """Yield pieces, then one `Whole`. Runs on the loop, so it must never block.

        Closing the iterator cancels the item: what it held is freed within one step.
        """
        raise NotImplementedError

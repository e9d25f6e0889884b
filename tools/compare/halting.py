"""A reranker that stands still now and then, as a machine does that swaps or collects garbage.

Shell: a role for one row of the comparison: what a second call to another node saves then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from mesh.roles.base import Context
from mesh.roles.rerank import Rerank
from mesh.wire.messages import Fields

EVERY = 25  # batches; below the share of calls that may be asked a second time
HALT_S = 0.4


class Halting(Rerank):
    """Answers as `rerank` does; each 25th batch of a node comes 0.4 s late."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._batches = 0

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Rerank, and stand still if it is time for that."""
        self._batches += 1
        if self._batches % EVERY == 0:
            time.sleep(HALT_S)
        return super().run(batch)


class HaltingOnce(Halting):
    """The same, but never asked twice: without hedging."""

    idempotent: ClassVar[bool] = False

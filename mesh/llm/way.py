"""What a relay is given of a way round: who sends, and whom it tells how long each part took.

Types only; `llm.chain` opens ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.llm.paces import Paces
from mesh.models.decoder import Stage

Send = Callable[[bytes, Any], None]


@dataclass(frozen=True, slots=True)
class Way:
    """A way round that is open.

    Attributes:
        epoch: of the chain.
        own: the head's layers; None if it has none.
        stages: how many nodes there are behind the head.
        sends: by lane, takes header and hidden states to the first of them.
        paces: is told how long each part took.
        sharing: how many of its nodes are on one machine, and share its cores.
    """

    epoch: int
    own: Stage | None
    stages: int
    sends: Sequence[Send]
    paces: Paces = field(default_factory=lambda: Paces((), {}))
    sharing: int = 1

"""What is wanted of a language model, and what comes back.

Pure. The engine takes an `Ask` and gives `Said` after `Said`, the last with a `Finish`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.llm.sequence import Reason
from mesh.models.sampling import Choice, Sampling


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of the model.

    Attributes:
        prompt: tokens.
        sampling: how tokens are chosen.
        tokens_max: of the answer.
        tokens_min: it does not end before.
        stops: strings that end it; they are not part of it.
        ends: tokens that end it; empty to ignore them.
        deadline_s: monotonic.
        priority: lower goes first.
        said: tokens of the answer that were made elsewhere; it goes on from there, and
            their text comes first.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    tokens_max: int = 128
    tokens_min: int = 0
    stops: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    deadline_s: float = float("inf")
    priority: int = 1
    said: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer went.

    Attributes:
        cached_tokens: of the prompt, those that other answers had read.
        batch_size: the most sequences that shared a step with it, itself included.
        queued_ms: from its arrival to its first step.
        ran_ms: from its first step to its end.
    """

    reason: Reason
    prompt_tokens: int
    answer_tokens: int
    queued_ms: float
    ran_ms: float
    batch_size: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What is new of an answer: tokens with what is known of their odds, and text."""

    choices: tuple[Choice, ...]
    text: str
    finish: Finish | None = None

"""What is known of one answer while it is made.

Pure. Owned and changed by `llm.scheduler`; the engine keeps text and chance beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Reason(Enum):
    """Why an answer ended."""

    STOP = "stop"  # an end token, or a stop string
    LENGTH = "length"  # as many tokens as were asked for
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    TOO_LARGE = "too_large"  # it can never fit
    OVERLOADED = "overloaded"  # the queue is full
    FAILED = "failed"  # the arithmetic raised


class Phase(Enum):
    """Where an answer stands."""

    WAITING = "waiting"  # holds nothing
    PREFILL = "prefill"  # holds a slot; its prompt is being read
    DECODE = "decode"  # its next token is due each step
    DONE = "done"


@dataclass(slots=True)
class Sequence:
    """One answer.

    Attributes:
        id: unlike any other's of this engine.
        prompt: tokens.
        tokens_max: of the answer, at least 1.
        tokens_min: end tokens before that many do not end it.
        ends: tokens that end it; empty where the caller wants them ignored.
        deadline_s: monotonic.
        priority: lower goes first.
        order: of arrival; kept when it has to wait again.
        answer: tokens so far.
        computed: positions whose keys and values lie in the slot.
        read: positions of the prompt that are, or will be by a step under way.
        known: positions of the prompt that others had computed.
        slot: where; -1 while waiting.
        is_busy: it is part of a step that has not come back.
        doom: why it ends when that step comes back.
    """

    id: int
    prompt: tuple[int, ...]
    tokens_max: int
    tokens_min: int = 0
    ends: frozenset[int] = frozenset()
    deadline_s: float = float("inf")
    priority: int = 1
    order: int = 0
    answer: list[int] = field(default_factory=list)
    computed: int = 0
    read: int = 0
    known: int = 0
    slot: int = -1
    phase: Phase = Phase.WAITING
    is_busy: bool = False
    doom: Reason | None = None
    preempted: int = 0

    @property
    def length(self) -> int:
        """Positions it will hold once its next token is chosen."""
        return len(self.prompt) + len(self.answer)

    def token_at(self, position: int) -> int:
        """Return the token at a position of prompt and answer."""
        start = len(self.prompt)
        return self.prompt[position] if position < start else self.answer[position - start]

    def tokens(self) -> tuple[int, ...]:
        """Return prompt and answer."""
        return (*self.prompt, *self.answer)

    def ending(self) -> Reason | None:
        """Return why it is complete, or None."""
        if self.answer and self.answer[-1] in self.ends and len(self.answer) > self.tokens_min:
            return Reason.STOP
        return Reason.LENGTH if len(self.answer) >= self.tokens_max else None

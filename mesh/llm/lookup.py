"""Guesses what a sequence says next: what followed its last words when they came before.

Pure. Answers quote: a question's sources, names, what they said themselves. A guess (a
draft) is computed in the same step as the token it stands behind, in a row of its own, and
counts if the model says the same there. So no token changes: at temperature 0 the model
chooses for itself, and otherwise chance depends on nothing but seed and index.

A row more is not free. How many drafts pay follows from what a step of so many rows costs,
and from how often this sequence's drafts were right of late: who is never right stops, and
tries again now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mesh.llm.sequence import Sequence
from mesh.llm.step import Row

WORDS = 3  # tokens that must have come before; two come again by chance too often
ODDS_START = 0.5  # that a draft is right, before any was tried
WEIGHT = 0.1  # of the newest draft in those odds
FORGET = 0.02  # of the way back to the start, per step without drafts
GAIN_MIN = 1.05  # expected tokens per time, against none
# A step's cost by rows, in steps of one row: SmolLM2 on two Zen 5 cores, by
# `python -m bench.llm`'s engine. Products read weights once per four rows.
ROW_COST, PASS_COST, PASS_ROWS = 0.19, 0.35, 4


def cost(rows: int) -> float:
    """Return what a step of so many rows costs."""
    return 1 + ROW_COST * (rows - 1) + PASS_COST * ((rows - 1) // PASS_ROWS)


def worth(odds: float, most: int, rows: int, tokens: float) -> int:
    """Return how many drafts give most tokens per time.

    Args:
        odds: that one is right, if those before it are.
        most: at most so many.
        rows: of the step, without them.
        tokens: that the step is expected to give, without them.
    """
    best, count = GAIN_MIN * tokens / cost(rows), 0
    right = 1.0
    for drafts in range(1, most + 1):
        right *= odds
        tokens += right
        if tokens / cost(rows + drafts) > best:
            best, count = tokens / cost(rows + drafts), drafts
    return count


class Lookup:
    """One sequence's words, and where they came before."""

    def __init__(self, sequence: Sequence) -> None:
        self.odds = ODDS_START
        self._sequence = sequence
        self._tokens = list(sequence.prompt)
        self._places: dict[tuple[int, ...], int] = {}  # of what followed, the last time
        self._indexed = WORDS  # what follows the first `indexed` tokens is not yet in there
        self._drafts: tuple[int, ...] = ()  # tried behind the first `tried_at` tokens
        self._tried_at = 0

    def judge(self) -> int:
        """Compare the drafts tried last with what was said; return how many were right."""
        self._tokens += self._sequence.answer[len(self._tokens) - len(self._sequence.prompt) :]
        said = self._tokens[self._tried_at :][: len(self._drafts)]
        right = 0
        for draft, token in zip(self._drafts, said, strict=False):
            self.odds += WEIGHT * ((draft == token) - self.odds)
            if draft != token:
                break
            right += 1
        if not self._drafts:
            self.odds += FORGET * (ODDS_START - self.odds)
        self._drafts = ()
        return right

    def guess(self, most: int) -> tuple[int, ...]:
        """Return what may come next; nothing where the last words are new."""
        tokens, places = self._tokens, self._places
        for at in range(self._indexed, len(tokens)):
            places[tuple(tokens[at - WORDS : at])] = at
        self._indexed = max(self._indexed, len(tokens))
        at = places.get(tuple(tokens[-WORDS:]), 0)
        if not at:
            return ()
        # Where it comes to its own end, it goes round: what it guessed follows.
        return tuple(tokens[at + step % (len(tokens) - at)] for step in range(most))

    def tries(self, drafts: tuple[int, ...]) -> None:
        """Note that these are computed behind what is known."""
        self._drafts, self._tried_at = drafts, len(self._tokens)


@dataclass(slots=True)
class Drafts:
    """The lookups of an engine's sequences.

    Attributes:
        most: drafts of one sequence in a step; 0 for none.
        rows_max: rows of a step that has drafts.
        tried: drafts computed so far.
        right: of those, what was said.
    """

    most: int
    rows_max: int = 16
    tried: int = 0
    right: int = 0
    lookups: dict[int, Lookup] = field(default_factory=dict)

    def extend(
        self, rows: list[Row], sequence: Callable[[int], Sequence], room: Callable[[Sequence], int]
    ) -> Iterable[Row]:
        """Yield the rows of a step, each that asks for a token followed by its drafts.

        Args:
            rows: as they are without.
            sequence: by id.
            room: how many positions behind its last token a sequence may use.
        """
        count = len(rows)
        expected = float(sum(row.is_last for row in rows))
        for row in rows:
            yield row
            if not row.is_last:
                continue
            drafts = self._drafts(sequence(row.id), room, count, expected)
            for at, token in enumerate(drafts, 1):
                yield Row(row.id, row.slot, row.position + at, token, is_draft=True)
                expected += self.lookups[row.id].odds ** at
            count += len(drafts)

    def _drafts(
        self, sequence: Sequence, room: Callable[[Sequence], int], rows: int, tokens: float
    ) -> tuple[int, ...]:
        lookup = self.lookups.get(sequence.id)
        if lookup is None:
            lookup = self.lookups[sequence.id] = Lookup(sequence)
        self.right += lookup.judge()
        # The step itself says one token more.
        left = sequence.tokens_max - len(sequence.answer) - 1
        most = min(self.most, self.rows_max - rows, room(sequence), left)
        wished = worth(lookup.odds, most, rows, tokens)
        drafts = lookup.guess(wished) if wished > 0 else ()
        lookup.tries(drafts)
        self.tried += len(drafts)
        return drafts

    def forget(self, id_: int) -> None:
        """Let go of a sequence that ended."""
        if lookup := self.lookups.pop(id_, None):
            self.right += lookup.judge()

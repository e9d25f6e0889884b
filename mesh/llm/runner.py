"""Computes one step of a language model: rows and a chunk in, next tokens out.

Arithmetic, no asyncio; `llm.engine` calls it in its own thread. Chunks are computed one
sequence at a time, rows by products that treat each row alone: a row's result does not depend
on its company. But for rounding, where matrices are quantised: a step of many sequences
multiplies by other forms than one of few (`models.quantize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from mesh.llm.sequence import Sequence
from mesh.llm.step import Chunk, Query, Row, Step
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.sampling import Choice, Sampling, choose

# By sequence: the token it asked for, and what drafts that proved right were told.
Choices: TypeAlias = dict[int, list[Choice]]


@dataclass(slots=True)
class Wish:
    """What one answer wants of its tokens."""

    sequence: Sequence
    sampling: Sampling

    def forbidden(self, ahead: int = 0) -> list[int]:
        """Return tokens that may not come so far ahead: those that would end it too early."""
        is_early = len(self.sequence.answer) + ahead < self.sequence.tokens_min
        return sorted(self.sequence.ends) if is_early else []


class Runner(Protocol):
    """What an engine needs of a model."""

    def run(self, step: Step, wishes: Mapping[int, Wish]) -> Choices:
        """Return tokens for each sequence that the step asks one for."""

    def give_back(self, slot: int) -> None:
        """Return a slot's memory to the system."""


class Whole:
    """A model whose layers are all here."""

    def __init__(self, stage: Stage, ends: Ends) -> None:
        self._stage, self._ends = stage, ends

    @torch.inference_mode()
    def run(self, step: Step, wishes: Mapping[int, Wish]) -> Choices:
        """Return tokens for each sequence that the step asks one for."""
        outputs: list[Tensor] = []
        if step.chunk:
            last = self._prefill(step.chunk)
            if step.chunk.is_last:
                outputs.append(last)
        if step.rows:
            x = self._decode(step.rows)
            due = [at for at, row in enumerate(step.rows) if row.is_last]
            outputs.append(x if len(due) == len(step.rows) else x[due])
        queries = step.queries()
        if not queries:
            return {}
        x = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return pick(self._ends, x, queries, wishes)

    def give_back(self, slot: int) -> None:
        """Return a slot's memory to the system."""
        self._stage.cache.give_back(slot)

    def _prefill(self, chunk: Chunk) -> Tensor:
        if copy := chunk.copy:
            self._stage.cache.copy(copy.source, chunk.slot, copy.start, copy.stop)
        positions = range(chunk.start, chunk.start + len(chunk.tokens))
        x = self._ends.embed(chunk.tokens, positions)
        return self._stage.prefill(x, chunk.slot, chunk.start)[-1:]

    def _decode(self, rows: tuple[Row, ...]) -> Tensor:
        slots, positions = [row.slot for row in rows], [row.position for row in rows]
        x = self._ends.embed([row.token for row in rows], positions)
        return self._stage.decode(x, self._stage.rows(slots, positions))


def pick(ends: Ends, x: Tensor, queries: Many[Query], wishes: Mapping[int, Wish]) -> Choices:
    """Return the next tokens of each sequence from the rows of `[M, C]` that ask for them.

    Those behind drafts come after the row they follow, and count while drafts prove right.
    """
    plain: list[int] = []
    other: list[int] = []
    for at, query in enumerate(queries):
        wish = wishes[query.id]
        is_plain = wish.sampling.is_plain and not wish.forbidden(len(query.ahead))
        (plain if is_plain else other).append(at)
    tokens: dict[int, int] = {}
    rows: dict[int, Tensor] = {}
    if plain:
        best = ends.best(x if not other else x[plain])
        tokens = dict(zip(plain, best, strict=True))
    if other:
        rows = dict(zip(other, ends.scores(x if not plain else x[other]), strict=True))
    choices: Choices = {}
    for at, query in enumerate(queries):
        said = choices.setdefault(query.id, [])
        if tuple(choice.token for choice in said) == query.ahead:
            known = at in tokens
            said.append(Choice(tokens[at]) if known else _chosen(rows[at], wishes[query.id], query))
    return choices


def _chosen(scores: Tensor, wish: Wish, query: Query) -> Choice:
    if forbidden := wish.forbidden(len(query.ahead)):
        scores = scores.clone()
        scores[forbidden] = float("-inf")
    sequence = wish.sequence
    answer = [*sequence.answer, *query.ahead] if query.ahead else sequence.answer
    return choose(scores, wish.sampling, sequence.prompt, answer)

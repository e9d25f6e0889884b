"""Computes one step of a language model: rows and a chunk in, next tokens out.

Arithmetic, no asyncio; `llm.engine` calls it in its own thread. A row's result does not
depend on its company: chunks are computed one sequence at a time, rows by products that
treat each row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mesh.llm.scheduler import Chunk, Row, Step
from mesh.llm.sequence import Sequence
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.sampling import Choice, Sampling, choose


@dataclass(slots=True)
class Wish:
    """What one answer wants of its tokens."""

    sequence: Sequence
    sampling: Sampling

    def forbidden(self) -> list[int]:
        """Return tokens that may not come yet: those that would end it too early."""
        is_early = len(self.sequence.answer) < self.sequence.tokens_min
        return sorted(self.sequence.ends) if is_early else []


class Runner(Protocol):
    """What an engine needs of a model."""

    def run(self, step: Step, wishes: Mapping[int, Wish]) -> dict[int, Choice]:
        """Return a token for each sequence that the step asks one for."""

    def give_back(self, slot: int) -> None:
        """Return a slot's memory to the system."""


class Whole:
    """A model whose layers are all here."""

    def __init__(self, stage: Stage, ends: Ends) -> None:
        self._stage, self._ends = stage, ends

    @torch.inference_mode()
    def run(self, step: Step, wishes: Mapping[int, Wish]) -> dict[int, Choice]:
        """Return a token for each sequence that the step asks one for."""
        asking: list[int] = []
        outputs: list[Tensor] = []
        if step.chunk:
            last = self._prefill(step.chunk)
            if step.chunk.is_last:
                asking.append(step.chunk.id)
                outputs.append(last)
        if step.rows:
            x = self._decode(step.rows)
            due = [at for at, row in enumerate(step.rows) if row.is_last]
            asking += [step.rows[at].id for at in due]
            outputs.append(x if len(due) == len(step.rows) else x[due])
        if not asking:
            return {}
        x = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return pick(self._ends, x, asking, wishes)

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


def pick(ends: Ends, x: Tensor, asking: list[int], wishes: Mapping[int, Wish]) -> dict[int, Choice]:
    """Return the next token of each sequence from its row of `[M, C]`."""
    plain: list[int] = []
    other: list[int] = []
    for at, id_ in enumerate(asking):
        is_plain = wishes[id_].sampling.is_plain and not wishes[id_].forbidden()
        (plain if is_plain else other).append(at)
    choices: dict[int, Choice] = {}
    if plain:
        tokens = ends.best(x if not other else x[plain])
        choices.update((asking[at], Choice(token)) for at, token in zip(plain, tokens, strict=True))
    if other:
        rows = ends.scores(x if not plain else x[other])
        for at, scores in zip(other, rows, strict=True):
            choices[asking[at]] = _chosen(scores, wishes[asking[at]])
    return choices


def _chosen(scores: Tensor, wish: Wish) -> Choice:
    if forbidden := wish.forbidden():
        scores = scores.clone()
        scores[forbidden] = float("-inf")
    sequence = wish.sequence
    return choose(scores, wish.sampling, sequence.prompt, sequence.answer)

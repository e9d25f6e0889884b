"""Chooses the next token from a row of scores.

Arithmetic, without state: chance is a function of (seed, index of the token), so the same
request gives the same tokens alone, in a batch, or continued on another node.

Order of the steps, as `transformers` has it: penalties, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from mesh.errors import Unprocessable

TOP_FAST = 512  # candidates sorted before the whole vocabulary is


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the most likely token; 1 leaves the odds as they are.
        top_k: keep that many; 0 keeps all.
        top_p: keep the most likely ones that together reach this share.
        min_p: keep those at least this share of the best one's odds.
        repetition: > 1 divides the scores of tokens seen in prompt or answer (CTRL).
        presence: subtracted once from tokens already in the answer (OpenAI).
        frequency: subtracted per occurrence in the answer (OpenAI).
        seed: of chance.
        logprobs: how many alternatives to report with each token; None reports nothing.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    seed: int = 0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        bounds = {
            "temperature": 0 <= self.temperature <= 100,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": 0 < self.repetition <= 100,
            "presence_penalty": -2 <= self.presence <= 2,
            "frequency_penalty": -2 <= self.frequency <= 2,
            "logprobs": self.logprobs is None or 0 <= self.logprobs <= 20,
        }
        if wrong := [name for name, is_fine in bounds.items() if not is_fine]:
            raise Unprocessable(f"out of range: {', '.join(wrong)}")

    @property
    def has_penalties(self) -> bool:
        """Whether what was said before changes the odds."""
        return self.repetition != 1.0 or self.presence != 0.0 or self.frequency != 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the most likely token is all that is asked for."""
        return self.temperature == 0 and not self.has_penalties and self.logprobs is None


@dataclass(frozen=True, slots=True)
class Choice:
    """A token, its log probability under the model itself, and the best alternatives."""

    token: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


def chance(seed: int, index: int) -> float:
    """Return a number in [0, 1) which depends on nothing but its arguments."""
    key = (seed & (2**64 - 1)).to_bytes(8, "little") + index.to_bytes(8, "little")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") / 2**64


def choose(
    scores: Tensor, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]
) -> Choice:
    """Return the next token.

    Args:
        scores: `[V]` float32 logits.
        sampling: how.
        prompt: tokens of the prompt.
        answer: tokens so far; their number is the index that chance is keyed with.
    """
    penalised = penalise(scores, sampling, prompt, answer)
    if sampling.temperature == 0:
        token = int(penalised.argmax())
    else:
        token = draw(penalised, sampling, chance(sampling.seed, len(answer)))
    if sampling.logprobs is None:
        return Choice(token)
    logs = torch.log_softmax(scores, -1)
    top = logs.topk(sampling.logprobs) if sampling.logprobs else None
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
    return Choice(token, float(logs[token]), tuple(pairs))


def penalise(
    scores: Tensor, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]
) -> Tensor:
    """Return the scores less what repetition costs; the same tensor where nothing does.

    Source: Keskar et al., CTRL (arXiv 1909.05858), §4.1 for `repetition`; OpenAI's API
    reference for `presence` and `frequency`, which count the answer only.
    """
    if not sampling.has_penalties:
        return scores
    scores = scores.clone()
    if sampling.repetition != 1.0 and (prompt or answer):
        seen = torch.tensor(sorted({*prompt, *answer}))
        old = scores[seen]
        scores[seen] = torch.where(old > 0, old / sampling.repetition, old * sampling.repetition)
    if answer and (sampling.presence or sampling.frequency):
        counts = Counter(answer)
        ids, times = torch.tensor(list(counts)), torch.tensor(list(counts.values()))
        scores[ids] -= sampling.presence + sampling.frequency * times
    return scores


def draw(scores: Tensor, sampling: Sampling, point: float) -> int:
    """Return the token at which the cumulated odds of what is kept pass `point` in [0, 1)."""
    odds, ids = kept(scores, sampling)
    cumulated = odds.cumsum(-1)
    at = int(torch.searchsorted(cumulated, point * float(cumulated[-1]), right=True))
    return int(ids[min(at, len(ids) - 1)])


def kept(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return odds (float64, not normalised to 1) and ids of the tokens that may be drawn."""
    odds = torch.softmax(scores.to(torch.float64) / sampling.temperature, -1)
    if not sampling.top_k and sampling.top_p >= 1:
        ids = torch.arange(len(odds)) if sampling.min_p == 0 else _above(odds, sampling.min_p)
        return odds[ids], ids
    odds, ids = _sorted(odds, sampling)
    if sampling.top_k:
        odds, ids = odds[: sampling.top_k], ids[: sampling.top_k]
        odds = odds / odds.sum()
    if sampling.top_p < 1:
        before = odds.cumsum(-1) - odds
        count = max(1, int((before < sampling.top_p).sum()))
        odds, ids = odds[:count], ids[:count]
    if sampling.min_p:
        is_kept = odds >= sampling.min_p * odds[0]
        odds, ids = odds[is_kept], ids[is_kept]
    return odds, ids


def _above(odds: Tensor, share: float) -> Tensor:
    return (odds >= share * odds.max()).nonzero()[:, 0]


def _sorted(odds: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return as many odds, best first, as top-k and top-p can need; equal ones by id."""
    if len(odds) > TOP_FAST and sampling.top_k <= TOP_FAST // 2:
        top = odds.topk(TOP_FAST)
        reaches = sampling.top_k or float(top.values.sum()) >= sampling.top_p
        # A tie across the edge could order by chance; then only the whole sort is certain.
        if reaches and float(top.values[-1]) < float(top.values[max(sampling.top_k, 1) - 1]):
            best = top.indices.sort().values
            values = odds[best]
            sorted_ = values.sort(descending=True, stable=True)
            return sorted_.values, best[sorted_.indices]
    whole = odds.sort(descending=True, stable=True)
    return whole.values, whole.indices

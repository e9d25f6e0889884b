"""Finds the best of very many scores by a product that is coarse, and so fast.

Arithmetic; used by `models.ends`, which computes the best again exactly. The output matrix of a
small model is a fifth of what a step reads, and with many rows a quarter of its time. Two forms:

    Bytes    8 bits times 8 bits, through oneDNN: where the processor adds up such products
             in 32 bits. SmolLM2's 49,152 tokens of 8 rows in 0.8 ms on two Zen 5 cores
    Narrow   4 bits times bf16 for the best, 8 bits where all count: everywhere else; 1.6 ms

Over 8,912 positions of six texts the very best score of SmolLM2 was in front of the coarse ones
in 92 % by bytes, never below place 7 (from 0); in 4 bits in 81 %, never below place 19. So
`deep` has room. Where all scores count, those by bytes lay 0.08 beside the exact ones (root of
the mean square), those of 8 bits times bf16 0.09.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from mesh.models.packed import rounded
from mesh.models.quantize import GROUP, Int4, Int8, to_int4

LOT, LOTS = 64, 16  # scores that are compared as one, and how many lots are looked into
MOST = 127  # of 8 bits with a sign
ZERO = 128  # where activations, which the kernel takes without a sign, have their zero
FINER = 2 * MOST  # by so much are the steps of the rest smaller


class Screen(Protocol):
    """Scores of `[M, C]` float32 rows, coarse.

    Attributes:
        deep: as many of the best hold the very best for certain; measured.
    """

    deep: int
    size_bytes: int

    def order(self, x: Tensor) -> Tensor:
        """Return `[M, ≥V]`: a row's numbers ascend as its scores; -inf beyond V."""

    def scores(self, x: Tensor) -> Tensor:
        """Return `[M, V]` float32, near enough that chance may be drawn from them."""


class Bytes:
    """8 bits a number with a scale for each of V rows, times 8 bits an activation.

    Sums of whole numbers are exact: a row's scores are its own, whatever `M`.
    """

    deep = 32

    def __init__(self, weight: Tensor) -> None:
        self._tokens = weight.shape[0]
        weight = pad(weight, (0, 0, 0, -weight.shape[0] % LOT))
        self._scale = weight.abs().amax(1).clamp(min=1e-12) / MOST
        codes = torch.round(weight / self._scale[:, None]).to(torch.int8)
        self._zeros = torch.zeros(len(codes), dtype=torch.int32)
        self._codes = torch.ops.onednn.qlinear_prepack(codes, [LOTS, codes.shape[1]])
        self.size_bytes = codes.numel() + 8 * len(codes)

    def order(self, x: Tensor) -> Tensor:
        """Return `[M, ≥V]`: a row's numbers ascend as its scores; -inf beyond V."""
        found = self._product(_codes(x * _per_step(x)))
        if self._tokens < found.shape[1]:
            found[:, self._tokens :] = float("-inf")
        return found

    def scores(self, x: Tensor) -> Tensor:
        """Return `[M, V]` float32.

        One activation of a model is a hundred times the others, whose 8 bits are few then. So
        what rounding leaves is a row of its own, in finer steps.
        """
        count, per_step = x.shape[0], _per_step(x)
        steps = x * per_step
        codes = _codes(steps)
        rest = _codes((steps - (codes.to(torch.float32) - ZERO)) * FINER)
        both = self._product(torch.cat([codes, rest]))[:, : self._tokens]
        return both[:count].add(both[count:], alpha=1 / FINER).div_(per_step)

    def _product(self, codes: Tensor) -> Tensor:
        count = codes.shape[0]
        beyond = rounded(count) - count
        if beyond:
            codes = pad(codes, (0, 0, 0, beyond))
        scale, zeros = self._scale, self._zeros
        found = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, ZERO, self._codes, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return found[:count] if beyond else found  # type: ignore[no-any-return]


def _per_step(x: Tensor) -> Tensor:
    """Return by what `[M, C]` is multiplied to lie within ±127: `[M, 1]`."""
    return MOST / torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True).clamp_(min=1e-30)


def _codes(steps: Tensor) -> Tensor:
    return (steps + (ZERO + 0.5)).to(torch.uint8)  # towards zero: with the half, to the nearest


class Narrow:
    """4 bits a number for the best; 8 bits where all scores count."""

    deep = 64

    def __init__(self, weight: Tensor) -> None:
        self._tokens = weight.shape[0]
        self._eight = Int8(weight, has_wide=False)
        self._four = _four_bits(weight) if weight.shape[1] % GROUP == 0 else None
        self.size_bytes = self._eight.size_bytes + (self._four.size_bytes if self._four else 0)

    def order(self, x: Tensor) -> Tensor:
        """Return `[M, V]`: a row's numbers ascend as its scores."""
        screen = self._four or self._eight
        return screen.narrow(x.to(torch.bfloat16))[:, : self._tokens]

    def scores(self, x: Tensor) -> Tensor:
        """Return `[M, V]` float32."""
        return self._eight.narrow(x.to(torch.bfloat16)).to(torch.float32)


def _four_bits(dense: Tensor) -> Int4:
    """Return the matrix in 4 bits, with rows of zeros up to a multiple of 16."""
    padded = pad(dense, (0, 0, 0, -dense.shape[0] % 16))
    group = 2 * GROUP if dense.shape[1] % (2 * GROUP) == 0 else GROUP  # fewer scales to read
    return Int4(to_int4(padded, group), has_wide=False)


def screen(weight: Tensor) -> Screen:
    """Return the fastest for `[V, C]` float32 that computes right here."""
    return Bytes(weight) if multiplies_bytes() else Narrow(weight)


@cache
def multiplies_bytes() -> bool:
    """Return whether torch and the processor multiply 8 bits by 8 bits, fast and exactly.

    Without instructions for it, sums of two products are cut off at 16 bits.
    """
    if not getattr(torch.cpu, "_is_vnni_supported", bool)():
        return False
    largest = torch.full((LOT, LOT), float(MOST))
    try:
        found = Bytes(largest).scores(torch.stack([largest[0], -largest[0]]))
    except (RuntimeError, AttributeError):  # another build of torch
        return False
    expected = float(MOST * MOST * LOT)
    return found.tolist() == [[expected] * LOT, [-expected] * LOT]


def best_places(scores: Tensor, count: int) -> Tensor:
    """Return `[M, count]` places of a row's largest scores, in any order.

    The best 16, or `count` where that is less, are always among them: a score among the best 16
    is in one of the 16 lots with the largest scores, for each lot before its own holds a score
    that is larger. Which of equal scores is taken is open. To look through lots takes a third
    of the time of looking through scores.
    """
    rows, total = scores.shape
    if total % LOT or total <= 2 * LOT * LOTS:
        return scores.topk(count, sorted=False).indices
    lots = scores.view(rows, -1, LOT)
    chosen = lots.amax(-1).topk(LOTS, sorted=False).indices
    among = lots.gather(1, chosen[..., None].expand(-1, -1, LOT)).view(rows, -1)
    found = among.topk(count, sorted=False).indices
    return chosen.gather(1, found // LOT) * LOT + found % LOT

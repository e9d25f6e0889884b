"""Finds the best of very many scores by a product that is coarse, and so fast.

Arithmetic; used by `models.ends`, which computes the best again exactly. The output matrix of a
small model is a fifth of what a step reads, and with many rows a quarter of its time. SmolLM2's
49,152 tokens on two Zen 5 cores, after a step's other weights have passed through the caches,
milliseconds:

    rows                                                        1     4     8    16
    4 bits times bf16                                        0.60  0.82  1.53  3.04
    8 bits times 8 bits, where the processor adds them up
        in 32 bits                                           0.86  0.90  1.02  1.17

Over 8,912 positions of six texts the very best score was in front of the coarse ones in 81 % in
4 bits, and never below place 19 (from 0); in 92 % in 8 bits, never below place 7. Where all
scores count, because chance is drawn from them, those in 8 bits lay 0.08 beside the exact ones
(root of the mean square), those of 8 bits times bf16 0.09.
"""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from mesh.models.packed import rounded
from mesh.models.quantize import GROUP, Int4, Int8, largest, to_int4

DEEP, DEEP_FOUR = 32, 64  # so many of the best hold the very best: see above
FEW = 4  # rows up to which 4 bits are as fast: beyond, their kernel reads them again
LOT, LOTS = 64, 16  # scores that are compared as one, and how many lots are looked into
MOST = 127  # of 8 bits with a sign
ZERO = 128  # where activations, which the kernel takes without a sign, have their zero
FINER = 2 * MOST  # by so much are the steps of the rest smaller


class Bytes:
    """8 bits a number with a scale for each of V rows, times 8 bits an activation.

    Sums of whole numbers are exact: a row's scores are its own, whatever `M`.
    """

    few = FEW

    def __init__(self, weight: Tensor) -> None:
        self._tokens = weight.shape[0]
        beyond = -self._tokens % LOT
        scale = largest(weight) / MOST
        codes = pad((weight / scale[:, None]).round_().to(torch.int8), (0, 0, 0, beyond))
        self._scale = pad(scale, (0, beyond), value=1.0)
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


class Words:
    """8 bits a number times bf16: slow, but everywhere."""

    few = sys.maxsize

    def __init__(self, weight: Tensor) -> None:
        self._matrix = Int8(weight, has_wide=False)
        self.size_bytes = self._matrix.size_bytes

    def order(self, x: Tensor) -> Tensor:
        """Return `[M, V]`: a row's numbers ascend as its scores."""
        return self._matrix.narrow(x.to(torch.bfloat16))

    def scores(self, x: Tensor) -> Tensor:
        """Return `[M, V]` float32."""
        return self.order(x).to(torch.float32)


class Screen:
    """The best of V scores, and all of them roughly, for rows `[M, C]` float32."""

    def __init__(self, weight: Tensor) -> None:
        self._tokens = weight.shape[0]
        self._eight: Bytes | Words = Bytes(weight) if multiplies_bytes() else Words(weight)
        self._four = _four_bits(weight) if weight.shape[1] % GROUP == 0 else None
        self.size_bytes = self._eight.size_bytes + (self._four.size_bytes if self._four else 0)

    def best(self, x: Tensor) -> Tensor:
        """Return places of a row's largest scores, so many that the very best is among them."""
        if self._four is None or x.shape[0] > self._eight.few:
            return best_places(self._eight.order(x), min(DEEP, self._tokens))
        # Comparing float32 takes half the time of comparing bf16.
        coarse = self._four.narrow(x.to(torch.bfloat16)).to(torch.float32)
        return best_places(coarse[:, : self._tokens], min(DEEP_FOUR, self._tokens))

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `[M, V]` near enough to draw from, and places of a row's largest."""
        coarse = self._eight.scores(x)
        return coarse, best_places(coarse, min(DEEP, self._tokens))


def _four_bits(dense: Tensor) -> Int4:
    """Return the matrix in 4 bits, with rows of zeros up to a multiple of 16."""
    if beyond := -dense.shape[0] % 16:
        dense = pad(dense, (0, 0, 0, beyond))
    group = 2 * GROUP if dense.shape[1] % (2 * GROUP) == 0 else GROUP  # fewer scales to read
    return Int4(to_int4(dense, group), has_wide=False)


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

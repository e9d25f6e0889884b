"""How a matrix is kept, and multiplied: float32, bfloat16, int8 or int4.

Arithmetic; used by `models.decoder`. What torch's CPU kernels do decides the forms:

    int4   `_weight_int4pack_mm_for_cpu`: groups of 32, bf16 in and out. GGUF's Q4_0 and
           Q4_1 map onto it one to one. Weights are read once per 4 rows, and a row's result
           does not depend on its neighbours.
    int8   `_weight_int8pack_mm`: one scale per output row, otherwise alike.
    bf16   oneDNN, packed (`models.packed`): the fastest for more rows than a few. On Zen 5 a
           row's result was the same bit by bit for every number of rows up to 512; other
           processors' kernels need not keep that.

A quantised matrix keeps a bf16 copy beside it for prompts, and for decoding steps of more than
`FEW_INT4` or `FEW_INT8` sequences, unless told not to. So decoding in batches equals decoding
alone up to that many sequences, or with any number where there is no copy or steps are to be
steady (`decoder.Stage`); beyond, within rounding. It is sequences that count and not rows:
neither drafts nor positions said again after a loss change how a step is rounded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from mesh.models import packed
from mesh.models.layers import Product
from mesh.models.shelf import SHELVES

GROUP = 32  # GGUF's block; the int4 kernel takes 32, 64, 128 or 256
# Rows up to which a quantised form is faster than bf16: both kernels read their weights anew for
# each four rows. All matrices of SmolLM2's layers on two Zen 5 cores, milliseconds:
#
#     rows       4     5     8     9    16
#     int4     3.8   6.5   6.7   9.3  11.9
#     int8     4.5  10.2  10.2  11.9  16.0
#     packed   6.5   6.8   7.7   8.3   9.9
#
# On one core they meet at the same rows.
FEW_INT4, FEW_INT8 = 8, 4
FEW_PLAIN = 24  # where bf16 cannot be packed: on two Zen 4 cores they met at 20 to 30 rows


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix in groups along its rows: of 32 as GGUF has them, or wider.

    4 bits: `w = (code - 8)·scale + zero`, codes uint8 in 0..15.
    8 bits: `w = code·scale`, codes int8, `zero` None.

    Attributes:
        codes: `[N, K]`.
        scale: `[N, K/group]` float32.
        zero: `[N, K/group]` float32, or None.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int

    @property
    def shape(self) -> tuple[int, int]:
        """`(N, K)`."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def group(self) -> int:
        """How many numbers share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    def __getitem__(self, rows: Tensor) -> Blocks:
        """Return those rows, in that order."""
        zero = None if self.zero is None else self.zero[rows]
        return Blocks(self.codes[rows], self.scale[rows], zero, self.bits)

    def dense(self) -> Tensor:
        """Return `[N, K]` float32."""
        rows, columns = self.shape
        codes = self.codes.view(rows, -1, self.group).to(torch.float32)
        if self.zero is None:
            return (codes * self.scale[..., None]).view(rows, columns)
        return ((codes - 8) * self.scale[..., None] + self.zero[..., None]).view(rows, columns)


Weight: TypeAlias = Tensor | Blocks


class Matrix(Protocol):
    """`y = x @ W.T`, for `x` of `[M, K]`."""

    shape: tuple[int, int]
    size_bytes: int

    def narrow(self, x: Tensor) -> Tensor:
        """Return `[M, N]`; where the form is quantised, a row's result is its own, whatever `M`."""

    def wide(self, x: Tensor) -> Tensor:
        """Return `[M, N]` by whatever is fastest for that many rows."""

    def product(self, bias: Tensor | None, sequences: int = 1) -> Product:
        """Return what a decoding step of so many sequences multiplies with, without Python."""


class Dense:
    """A matrix as it is; the type of its numbers is that of its products."""

    def __init__(self, weight: Tensor) -> None:
        can_pack = weight.dtype == torch.bfloat16 and packed.multiplies_bfloat16()
        self._weight = packed.pack(weight) if can_pack else weight.contiguous()
        self.is_packed = self._weight.is_mkldnn
        self.shape = (weight.shape[0], weight.shape[1])
        self.size_bytes = packed.size_bytes(self._weight)

    def narrow(self, x: Tensor) -> Tensor:
        """Return `[M, N]`."""
        return packed.product(x, self._weight, None)

    wide = narrow

    def product(self, bias: Tensor | None, sequences: int = 1) -> Product:
        """Return what `narrow` multiplies with."""
        return Product(self._weight, None, 0, 0, bias)


class Int4:
    """4 bits a number; a bf16 copy for many rows."""

    def __init__(self, blocks: Blocks, has_wide: bool = True) -> None:
        assert blocks.zero is not None
        assert can_int4(blocks.shape)
        self.shape, self._group = blocks.shape, blocks.group
        # The bytes' order depends on the processor at hand: never kept, never sent.
        ordered = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            blocks.codes.to(torch.int32), 1
        )
        self._codes = SHELVES.keep(ordered)
        pairs = torch.stack([blocks.scale, blocks.zero], -1).transpose(0, 1)
        self._scales = SHELVES.keep(pairs.to(torch.bfloat16))
        self._copy = _Copy(blocks.dense(), FEW_INT4) if has_wide else None
        self.size_bytes = self._codes.numel() + 2 * self._scales.numel()
        self.size_bytes += 0 if self._copy is None else self._copy.size_bytes

    def narrow(self, x: Tensor) -> Tensor:
        """Return `[M, N]` bfloat16, each row by itself."""
        return torch._weight_int4pack_mm_for_cpu(x, self._codes, self._group, self._scales)

    def wide(self, x: Tensor) -> Tensor:
        """Return `[M, N]` bfloat16; which kernel runs depends on `M` only."""
        if self._copy is not None and x.shape[0] > self._copy.few:
            return self._copy.narrow(x)
        return self.narrow(x)

    def product(self, bias: Tensor | None, sequences: int = 1) -> Product:
        """Return what `narrow` multiplies with, or `wide` where there are many sequences."""
        if self._copy is not None and sequences > self._copy.few_sequences:
            return self._copy.product(bias)
        return Product(self._codes, self._scales, 4, self._group, bias)


class Int8:
    """8 bits a number, one scale a row; a bf16 copy for many rows."""

    def __init__(self, weight: Tensor, has_wide: bool = True) -> None:
        self.shape = (weight.shape[0], weight.shape[1])
        scale = largest(weight) / 127
        # The kernel reads scales as bf16: round first, so that codes fit what is used.
        self._scale = scale.to(torch.bfloat16)
        codes = (weight / self._scale.to(torch.float32)[:, None]).round_().clamp_(-127, 127)
        self._codes = SHELVES.keep(codes.to(torch.int8))
        self._copy = _Copy(weight, FEW_INT8) if has_wide else None
        self.size_bytes = self._codes.numel() + 2 * self._scale.numel()
        self.size_bytes += 0 if self._copy is None else self._copy.size_bytes

    def narrow(self, x: Tensor) -> Tensor:
        """Return `[M, N]` bfloat16, each row by itself."""
        return torch._weight_int8pack_mm(x, self._codes, self._scale)

    def wide(self, x: Tensor) -> Tensor:
        """Return `[M, N]` bfloat16; which kernel runs depends on `M` only."""
        if self._copy is not None and x.shape[0] > self._copy.few:
            return self._copy.narrow(x)
        return self.narrow(x)

    def product(self, bias: Tensor | None, sequences: int = 1) -> Product:
        """Return what `narrow` multiplies with, or `wide` where there are many sequences."""
        if self._copy is not None and sequences > self._copy.few_sequences:
            return self._copy.product(bias)
        return Product(self._codes, self._scale, 8, 0, bias)


class _Copy(Dense):
    """A quantised matrix in bf16, for many rows.

    Attributes:
        few: rows up to which the quantised form is as fast.
        few_sequences: decoding steps of more take the copy. Where it cannot be packed none
            does: a prompt's rows are many enough for plain products, those of a step hardly.
    """

    def __init__(self, weight: Tensor, few: int) -> None:
        super().__init__(weight.to(torch.bfloat16))
        self.few = few if self.is_packed else FEW_PLAIN
        self.few_sequences = few if self.is_packed else sys.maxsize


def can_int4(shape: tuple[int, int]) -> bool:
    """Return whether the int4 kernel takes a matrix of this shape."""
    return shape[0] % 16 == 0 and shape[1] % GROUP == 0


def join(weights: Sequence[Weight]) -> Weight:
    """Return several matrices over the same input as one: their rows one under the other."""
    if len(weights) == 1:
        return weights[0]
    blocks = [weight for weight in weights if isinstance(weight, Blocks)]
    if len(blocks) == len(weights) and len({block.bits for block in blocks}) == 1:
        zeros = [block.zero for block in blocks if block.zero is not None]
        return Blocks(
            torch.cat([block.codes for block in blocks]),
            torch.cat([block.scale for block in blocks]),
            torch.cat(zeros) if zeros else None,
            blocks[0].bits,
        )
    return torch.cat([_dense(weight) for weight in weights])


def matrix(weight: Weight, form: str, has_wide: bool = True) -> Matrix:
    """Return the weight in a form that multiplies.

    Args:
        weight: as read.
        form: "float32", "bfloat16", "int8", "int4", or "auto": 4-bit blocks stay 4-bit,
            everything else becomes int8.
        has_wide: keep a bf16 copy for many rows.
    """
    if form == "float32":
        return Dense(_dense(weight))
    if form == "bfloat16":
        return Dense(_dense(weight).to(torch.bfloat16))
    is_four = isinstance(weight, Blocks) and weight.bits == 4
    if (form == "int4" or (form == "auto" and is_four)) and can_int4(_shape(weight)):
        is_ready = isinstance(weight, Blocks) and weight.bits == 4
        return Int4(weight if is_ready else to_int4(_dense(weight)), has_wide)  # type: ignore[arg-type]
    return Int8(_dense(weight), has_wide)


def largest(weight: Tensor) -> Tensor:
    """Return how far the numbers of each row lie from zero; no copy of a large matrix is made."""
    return torch.linalg.vector_norm(weight, float("inf"), 1).clamp_(min=1e-12)


def to_int4(weight: Tensor, group: int = GROUP) -> Blocks:
    """Return the matrix in 4 bits: each group spans its own smallest and largest number."""
    groups = weight.view(weight.shape[0], -1, group)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp(min=1e-8)
    codes = (groups - low[..., None]).div_(scale[..., None]).round_().clamp_(0, 15)
    return Blocks(codes.to(torch.uint8).view_as(weight), scale, low + 8 * scale, 4)


def _dense(weight: Weight) -> Tensor:
    return weight.dense() if isinstance(weight, Blocks) else weight.to(torch.float32)


def _shape(weight: Weight) -> tuple[int, int]:
    return weight.shape[0], weight.shape[1]

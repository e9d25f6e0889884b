"""Multiplies by matrices in oneDNN's own order; by plain ones where torch lacks it.

Arithmetic; used by `models.quantize`, `models.layers` and `models.bert`. A matrix as it lies in
a checkpoint is put in that order anew for each product, which takes longer than the product
where rows are few. All 120 matrices of SmolLM2's layers in bfloat16, milliseconds on two Zen 5
cores:

    rows        1     8    16    64   512
    plain      13    15    21    35   152
    packed    5.6   7.5   9.9    22   125

oneDNN compiles and keeps a kernel for each number of rows that it meets, of each matrix: 2 ms
and 2 MB for these four shapes, 1.1 GB once every number up to 512 was met. So more than a few
rows are rounded up (`rounded`): 36 numbers up to 256, which is a chunk of a prompt.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

ROWS_HINT = 16  # oneDNN orders a matrix for about so many; of 1, 16 and 256 none was slower


def is_available() -> bool:
    """Return whether torch was built with oneDNN and its products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def multiplies_bfloat16() -> bool:
    """Return whether the processor has instructions for it: without them it is slower."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def pack(weight: Tensor) -> Tensor:
    """Return `[N, K]` as `product` multiplies by it fastest."""
    weight = weight.contiguous()
    if not is_available():
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)  # type: ignore[no-any-return]


def rounded(rows: int) -> int:
    """Return how many rows are multiplied for so many: at most a quarter more."""
    if rows <= 16:
        return rows  # in decoding each row counts
    step = 4 if rows <= 32 else 8 if rows <= 64 else 16
    return (rows + step - 1) // step * step


def size_bytes(weight: Tensor) -> int:
    """Return what a matrix takes, packed or not."""
    if weight.is_mkldnn:
        return int(torch.ops.mkldnn._nbytes(weight))  # whole blocks
    return weight.numel() * weight.element_size()


def _ordered(x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    rows = x.shape[0]
    beyond = rounded(rows) - rows
    if beyond > 0:
        x = torch.constant_pad_nd(x, [0, 0, 0, beyond])
    y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, act, [], "none")
    return y[:rows] if beyond > 0 else y


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    y = linear(x, weight, bias)
    return gelu(y) if act == "gelu" else y


# TorchScript compiles what it finds by this name, and must not find an operation that is missing.
_packed = _ordered if is_available() else _plain


def product(x: Tensor, weight: Tensor, bias: Tensor | None, act: str = "none") -> Tensor:
    """Return act(x @ weight.T + bias), the weight packed or not; `act` is "gelu" or "none"."""
    if weight.is_mkldnn:
        return _packed(x, weight, bias, act)
    return _plain(x, weight, bias, act)

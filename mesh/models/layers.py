"""Passes rows through layers: one position each of many sequences.

Arithmetic; used by `models.decoder`, which owns the tensors. With one row, Python between the
operations costs a seventh of a step, and each operation gives up the interpreter's lock and
waits for it again. So `through` is written in the part of Python that TorchScript takes, and
runs without either; where torch no longer has TorchScript, the same lines run as Python.
"""

import logging
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mesh.models.packed import product as dense_product

log = logging.getLogger(__name__)


class Product(NamedTuple):
    """A matrix `[N, K]` with its bias: 4 or 8 bits a number, or 0 for as it is, perhaps packed."""

    weight: Tensor
    scales: Tensor | None
    bits: int
    group: int
    bias: Tensor | None


class Scale(NamedTuple):
    """A norm; `scaled` is weight · sqrt(C), for one that divides by the length."""

    weight: Tensor
    bias: Tensor | None
    scaled: Tensor


class Weights(NamedTuple):
    """One layer."""

    attn_norm: Scale
    qkv: Product
    o: Product
    mlp_norm: Scale
    up: Product
    down: Product


class Buffers(NamedTuple):
    """What a step with `M` rows writes into; see `decoder.Workspace`."""

    padded: Tensor
    x: Tensor
    length: Tensor
    ratio: Tensor
    normed: Tensor
    qkv: Tensor
    raw: list[Tensor]
    turned: list[Tensor]
    q: Tensor
    kv: Tensor
    seen: Tensor
    seen_rows: Tensor
    attended: Tensor
    hidden: Tensor


class Plan(NamedTuple):
    """Where the rows of a step belong, and what each of them sees.

    Attributes:
        turns: what each of `raw` is multiplied with; empty where positions do not turn.
        targets: places in a layer's flat memory.
        bounds: per run the first and the last of `q`.
        masks: per run, 0 or -inf.
    """

    turns: list[Tensor]
    targets: Tensor
    bounds: list[tuple[int, int]]
    masks: list[Tensor]


class Memory(NamedTuple):
    """Keys and values of each layer: flat, and per run and layer as products read them."""

    flat: list[Tensor]
    keys: list[list[Tensor]]
    values: list[list[Tensor]]


def multiply(x: Tensor, product: Product) -> Tensor:
    """Return `x @ W.T + b`; where it is quantised, a row's result is its own."""
    scales = product.scales
    if scales is None:
        return dense_product(x, product.weight, product.bias)
    if product.bits == 4:
        y = torch._weight_int4pack_mm_for_cpu(x, product.weight, product.group, scales)
    else:
        y = torch._weight_int8pack_mm(x, product.weight, scales)
    bias = product.bias
    return y if bias is None else y.add_(bias)


def normalise(scale: Scale, space: Buffers, eps: float) -> Tensor:
    """Return the rows normalised, in the type of the products."""
    bias = scale.bias
    if bias is not None:
        wide = torch.layer_norm(space.x, [space.x.shape[1]], scale.weight, bias, eps)
        return space.normed.copy_(wide)
    torch.ops.aten.linalg_vector_norm(space.padded, 2, [-1], True, out=space.length)
    torch.div(space.x, space.length, out=space.ratio)
    return torch.mul(space.ratio, scale.scaled, out=space.normed)


def attend(index: int, space: Buffers, plan: Plan, memory: Memory, scale: float) -> None:
    """Keep the rows' keys and values, and let each row see its own past."""
    for at, raw in enumerate(space.raw):
        if len(plan.turns) > 0:
            torch.mul(raw, plan.turns[at], out=space.turned[at])
        else:
            space.turned[at].copy_(raw)
    memory.flat[index].index_copy_(0, plan.targets, space.kv)
    runs = len(plan.masks)
    for run in range(runs):
        keys, values = memory.keys[run][index], memory.values[run][index]
        q, seen = space.q, space.seen
        if runs > 1:
            first, last = plan.bounds[run]
            q, seen = q[first:last], seen[first:last]
        scores = torch.baddbmm(plan.masks[run], q, keys, alpha=scale)
        torch.bmm(torch.softmax(scores, -1), values, out=seen)


def feed(weights: Weights, space: Buffers, eps: float, is_gated: bool) -> Tensor:
    """Return what the second half of a layer adds."""
    up = multiply(normalise(weights.mlp_norm, space, eps), weights.up)
    if not is_gated:
        return multiply(torch.nn.functional.gelu(up, approximate="tanh"), weights.down)
    gate, value = up.chunk(2, -1)
    torch.mul(torch.nn.functional.silu(gate), value, out=space.hidden)
    return multiply(space.hidden, weights.down)


def through(
    layers: list[Weights],
    space: Buffers,
    plan: Plan,
    memory: Memory,
    eps: float,
    scale: float,
    is_gated: bool,
) -> None:
    """Pass `space.x` through the layers; it is changed in place."""
    for index, weights in enumerate(layers):
        space.qkv.copy_(multiply(normalise(weights.attn_norm, space, eps), weights.qkv))
        attend(index, space, plan, memory, scale)
        if space.attended.dtype != space.seen_rows.dtype:
            space.attended.copy_(space.seen_rows)
        space.x.add_(multiply(space.attended, weights.o))
        space.x.add_(feed(weights, space, eps, is_gated))


@cache
def compiled() -> Callable[..., None]:
    """Return `through` without Python in it, or as it stands where torch cannot."""
    try:
        with warnings.catch_warnings():
            # Deprecated in favour of torch.compile, which needs a C++ compiler where it runs.
            warnings.simplefilter("ignore", DeprecationWarning)
            found: Any = torch.jit.script(through)
    except (RuntimeError, AttributeError, OSError, NotImplementedError) as error:
        log.warning("decoder.not_compiled", extra={"why": str(error)})
        return through
    return found  # type: ignore[no-any-return]

"""Passes rows through layers: one position each of many sequences.

Arithmetic; used by `models.decoder`, which owns the tensors. With one row, Python between the
operations costs a seventh of a step, and each operation gives up the interpreter's lock and
waits for it again. So `Through` is written in the part of Python that TorchScript takes, and
runs without either; where torch no longer has TorchScript, the same lines run as Python.

What TorchScript does costs too, for the processor's caches are full of weights by then. Tuples
are taken apart once and not member by member, what stays the same is handed over once and not
with each step (a hundred tensors take 0.1 ms), and loops that mostly run once stand behind a
case for once.
"""

import logging
import warnings
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
    """What a step with `M` rows writes into; see `decoder.workspace`."""

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
        keys: per run and layer, as products read them.
        values: likewise.
    """

    turns: list[Tensor]
    targets: Tensor
    bounds: list[tuple[int, int]]
    masks: list[Tensor]
    keys: list[list[Tensor]]
    values: list[list[Tensor]]


class Step(NamedTuple):
    """A step that can be made again, once its plan has moved on in place."""

    space: Buffers
    plan: Plan


def multiply(x: Tensor, product: Product) -> Tensor:
    """Return `x @ W.T + b`; where it is quantised, a row's result is its own."""
    weight, scales, bits, group, bias = product
    if scales is None:
        return dense_product(x, weight, bias)
    if bits == 4:
        y = torch._weight_int4pack_mm_for_cpu(x, weight, group, scales)
    else:
        y = torch._weight_int8pack_mm(x, weight, scales)
    return y if bias is None else y.add_(bias)


def normalise(scale: Scale, space: Buffers, eps: float) -> Tensor:
    """Return the rows normalised, in the type of the products."""
    weight, bias, scaled = scale
    if bias is not None:
        wide = torch.layer_norm(space.x, [space.x.shape[1]], weight, bias, eps)
        return space.normed.copy_(wide)
    torch.ops.aten.linalg_vector_norm(space.padded, 2, [-1], True, out=space.length)
    torch.div(space.x, space.length, out=space.ratio)
    return torch.mul(space.ratio, scaled, out=space.normed)


def keep(space: Buffers, plan: Plan, flat: Tensor) -> None:
    """Turn queries and keys by their positions, and keep the rows' keys and values."""
    raw, turned, turns = space.raw, space.turned, plan.turns
    if len(turns) > 0:
        torch.mul(raw[0], turns[0], out=turned[0])
        if len(turns) > 1:
            torch.mul(raw[1], turns[1], out=turned[1])
    else:
        for at, part in enumerate(raw):
            turned[at].copy_(part)
    flat.index_copy_(0, plan.targets, space.kv)


def attend(index: int, space: Buffers, plan: Plan, scale: float) -> None:
    """Let each row see its own past."""
    masks, keys, values = plan.masks, plan.keys, plan.values
    if len(masks) == 1:
        scores = torch.baddbmm(masks[0], space.q, keys[0][index], alpha=scale)
        torch.bmm(torch.softmax(scores, -1), values[0][index], out=space.seen)
    else:
        for run, mask in enumerate(masks):
            first, last = plan.bounds[run]
            q, seen = space.q[first:last], space.seen[first:last]
            scores = torch.baddbmm(mask, q, keys[run][index], alpha=scale)
            torch.bmm(torch.softmax(scores, -1), values[run][index], out=seen)


def feed(space: Buffers, wide: Tensor, down: Product, is_gated: bool) -> Tensor:
    """Return what the second half of a layer adds, from its wide middle."""
    if not is_gated:
        return multiply(torch.nn.functional.gelu(wide, approximate="tanh"), down)
    gate, value = wide.chunk(2, -1)
    torch.mul(torch.nn.functional.silu(gate), value, out=space.hidden)
    return multiply(space.hidden, down)


class Through(torch.nn.Module):
    """Layers, their memory, and steps: what stays the same for a while."""

    layers: list[Weights]
    flat: list[Tensor]
    steps: dict[int, Step]

    def __init__(
        self, layers: list[Weights], flat: list[Tensor], eps: float, scale: float, is_gated: bool
    ) -> None:
        """Hold them.

        Args:
            layers: their weights.
            flat: keys and values of each layer, one line per head and position.
            eps: of the norms.
            scale: of the scores.
            is_gated: `up` is gate and up, as in the llama family.
        """
        super().__init__()
        self.layers, self.flat, self.steps = layers, flat, {}
        self.eps, self.scale, self.is_gated = eps, scale, is_gated

    def forward(self, number: int, step: Step | None) -> None:
        """Pass a step's `space.x` through the layers; it is changed in place.

        Args:
            number: of the step.
            step: what has that number from now on; None for what had it before.
        """
        if step is not None:
            self.steps[number] = step
        space, plan = self.steps[number]
        space, plan = Buffers(*space), Plan(*plan)
        eps, scale, is_gated = self.eps, self.scale, self.is_gated
        is_cast = space.attended.dtype != space.seen_rows.dtype
        for index, weights in enumerate(self.layers):
            attn_norm, qkv, o, mlp_norm, up, down = weights
            space.qkv.copy_(multiply(normalise(attn_norm, space, eps), qkv))
            keep(space, plan, self.flat[index])
            attend(index, space, plan, scale)
            if is_cast:
                space.attended.copy_(space.seen_rows)
            space.x.add_(multiply(space.attended, o))
            wide = multiply(normalise(mlp_norm, space, eps), up)
            space.x.add_(feed(space, wide, down, is_gated))


def compiled(through: Through) -> Through:
    """Return it without Python in it, or as it stands where torch cannot."""
    try:
        with warnings.catch_warnings():
            # Deprecated in favour of torch.compile, which needs a C++ compiler where it runs.
            warnings.simplefilter("ignore", DeprecationWarning)
            found: Any = torch.jit.script(through)
    except (RuntimeError, AttributeError, OSError, NotImplementedError) as error:
        _tell(str(error))
        return through
    return found  # type: ignore[no-any-return]


@cache
def _tell(why: str) -> None:
    log.warning("decoder.not_compiled", extra={"why": why})

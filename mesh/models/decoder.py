"""Computes a decoder: layers `[first, last)` of it, with their own keys and values.

Arithmetic; used by `llm.engine`. One node may hold all layers or a part. Two ways through
a layer, with the same weights:

    prefill   one sequence, a chunk of T positions: wide products
    decode    M sequences, one position each: few small operations, buffers made once, and
              no Python between them (`models.layers`)

At one row, what happens between the products costs as much as the products: queries, keys
and values come from one matrix, gate and up from another, the residual is kept beside a
constant column so that one norm gives `sqrt(C·(mean + eps))`, and rotary pairs turn by one
complex product. The residual stays float32; products take `dtype`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, rms_norm, silu

from mesh.models.architecture import Architecture
from mesh.models.attention import (
    KeyValues,
    Plans,
    Rotary,
    Rows,
    attend_chunk,
    chunk_mask,
)
from mesh.models.checkpoint import Checkpoint, dense
from mesh.models.layers import Buffers, Plan, Scale, Step, Through, Weights, compiled
from mesh.models.quantize import Matrix, join, matrix

PAD = 16  # columns beside the residual: keeps its rows on cache lines


@dataclass(frozen=True, slots=True)
class Norm:
    """Weight (and bias) of a norm; RMS where there is no bias."""

    weight: Tensor
    bias: Tensor | None
    scaled: Tensor  # weight · sqrt(C): what is left to multiply after dividing by the norm

    def wide(self, x: Tensor, eps: float) -> Tensor:
        """Return `[T, C]` normalised, float32."""
        if self.bias is None:
            return rms_norm(x, (x.shape[-1],), self.weight, eps)
        return layer_norm(x, (x.shape[-1],), self.weight, self.bias, eps)

    def scale(self) -> Scale:
        """Return it as `layers.Through` reads it."""
        return Scale(self.weight, self.bias, self.scaled)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; `up` is gate and up as one matrix in the llama family."""

    attn_norm: Norm
    qkv: Matrix
    qkv_bias: Tensor | None
    o: Matrix
    o_bias: Tensor | None
    mlp_norm: Norm
    up: Matrix
    up_bias: Tensor | None
    down: Matrix
    down_bias: Tensor | None

    def size_bytes(self) -> int:
        """Return what its matrices take."""
        return sum(part.size_bytes for part in (self.qkv, self.o, self.up, self.down))

    def tensors(self, sequences: int) -> Weights:
        """Return it as `layers.Through` reads it in a step of so many sequences."""
        return Weights(
            attn_norm=self.attn_norm.scale(),
            qkv=self.qkv.product(self.qkv_bias, sequences),
            o=self.o.product(self.o_bias, sequences),
            mlp_norm=self.mlp_norm.scale(),
            up=self.up.product(self.up_bias, sequences),
            down=self.down.product(self.down_bias, sequences),
        )


def workspace(shape: Architecture, count: int, dtype: torch.dtype) -> Buffers:
    """Return buffers of a decoding step with `M` rows."""
    heads, kv_heads, wide = shape.heads, shape.kv_heads, shape.head_width
    padded = torch.zeros(count, shape.width + PAD)
    # So that norm(padded)² = sum(x²) + C·eps.
    padded[:, shape.width] = sqrt(shape.width * shape.norm_eps)
    qkv = torch.empty(count, heads + 2 * kv_heads, wide)
    # One row's queries, keys and values turn together; of many, queries must lie on their own.
    turned = torch.empty_like(qkv)
    q, kv = turned[:, :heads], turned[:, heads:]
    raw, parts = [qkv], [turned]
    if count > 1:
        q, kv = (torch.empty(count, n, wide) for n in (heads, 2 * kv_heads))
        raw, parts = [qkv[:, :heads], qkv[:, heads:]], [q, kv]
    turns = bool(shape.rope_theta)
    seen = torch.empty(count * kv_heads, heads // kv_heads, wide)
    seen_rows = seen.view(count, heads * wide)
    return Buffers(
        padded=padded,
        x=padded[:, : shape.width],
        length=torch.empty(count, 1),
        ratio=torch.empty(count, shape.width),
        normed=torch.empty(count, shape.width, dtype=dtype),
        qkv=qkv.view(count, -1),
        raw=[_pairs(part) for part in raw] if turns else raw,
        turned=[_pairs(part) for part in parts] if turns else parts,
        q=q.view(count * kv_heads, heads // kv_heads, wide),
        kv=kv.reshape(count * 2 * kv_heads, wide),
        seen=seen,
        seen_rows=seen_rows,
        attended=seen_rows if dtype == torch.float32 else seen_rows.to(dtype),
        hidden=torch.empty(count, shape.inner, dtype=dtype),
    )


def _pairs(x: Tensor) -> Tensor:
    """View `[…, D]` as `[…, D/2]` complex."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


class _Own(threading.local):
    """What each thread that decodes has for itself: several may do so at once."""

    def __init__(self, cache: KeyValues, rotary: Rotary | None) -> None:
        self.plans = Plans(cache, rotary)
        self.spaces: dict[int, Buffers] = {}  # by number of rows
        self.throughs: dict[int, Through] = {}  # by number of sequences


class Stage:
    """Layers `[first, last)` of a model, with room for `slots` sequences of `cap` positions."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        first: int,
        last: int,
        *,
        form: str = "auto",
        slots: int = 16,
        cap: int = 2048,
        has_wide: bool = True,
        known: Mapping[int, Layer] | None = None,
        is_steady: bool = False,
    ) -> None:
        """Read the layers' weights.

        Args:
            checkpoint: the opened model.
            first: first layer.
            last: layer after the last.
            form: see `quantize.matrix`.
            slots: how many sequences at once.
            cap: positions of each; a multiple of 64.
            has_wide: keep a bf16 copy of quantised matrices for prefill.
            known: layers that were read before, by number, in the same form.
            is_steady: decode any number of sequences by the forms for one, so that a row is
                rounded as it is alone; otherwise many by those for many, which is faster.
        """
        known = known or {}
        shape = checkpoint.architecture
        assert 0 <= first < last <= shape.layers
        self.architecture, self.first, self.last = shape, first, last
        self._is_steady = is_steady
        self.dtype = torch.float32 if form == "float32" else torch.bfloat16
        self.layers = [
            known.get(i) or _read_layer(checkpoint, i, form, has_wide, self.dtype)
            for i in range(first, last)
        ]
        self.cache = KeyValues(shape, last - first, slots, cap)
        self._rotary: Rotary | None = None
        if shape.rope_theta:
            self._rotary = Rotary(shape, cap, checkpoint.rope_factors())
        self._scale = shape.head_width**-0.5
        self._own, self._compiling = _Own(self.cache, self._rotary), threading.Lock()

    def size_bytes(self) -> int:
        """Return what the layers' matrices take."""
        return sum(layer.size_bytes() for layer in self.layers)

    # --- one sequence, a chunk ---------------------------------------------------------

    def prefill(self, x: Tensor, slot: int, start: int) -> Tensor:
        """Pass a chunk of one sequence through the layers.

        Args:
            x: `[T, C]` float32, positions `start…`; what is before lies in the slot already.
            slot: where its keys and values are kept.
            start: position of the first row.

        Returns:
            `[T, C]` float32.
        """
        assert start + x.shape[0] <= self.cache.cap
        mask = chunk_mask(start, x.shape[0])
        for index, layer in enumerate(self.layers):
            normed = layer.attn_norm.wide(x, self.architecture.norm_eps).to(self.dtype)
            qkv = _biased(layer.qkv.wide(normed), layer.qkv_bias)
            seen = self._attend_chunk(index, qkv, slot, start, mask)
            x = x + _biased(layer.o.wide(seen), layer.o_bias)
            normed = layer.mlp_norm.wide(x, self.architecture.norm_eps).to(self.dtype)
            hidden = self._activate(_biased(layer.up.wide(normed), layer.up_bias))
            x = x + _biased(layer.down.wide(hidden), layer.down_bias)
        return x

    def _attend_chunk(
        self, layer: int, qkv: Tensor, slot: int, start: int, mask: Tensor | None
    ) -> Tensor:
        shape, count = self.architecture, qkv.shape[0]
        heads = qkv.to(torch.float32).view(count, -1, shape.head_width)
        if self._rotary:
            turning = heads[:, : shape.heads + shape.kv_heads]
            pairs = _pairs(turning)
            pairs *= self._rotary.chunk(start, start + count)
        queries, keys, values = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        self.cache.write_chunk(layer, slot, start, keys, values)
        past_keys, past_values = self.cache.read(layer, slot, start + count)
        dtype = self.dtype
        return attend_chunk(queries.to(dtype), past_keys.to(dtype), past_values.to(dtype), mask)

    def _activate(self, up: Tensor) -> Tensor:
        if self.architecture.family == "gpt2":
            return gelu(up, approximate="tanh")
        gate, value = up.chunk(2, dim=-1)
        return silu(gate).mul_(value)

    # --- many sequences, one position each ---------------------------------------------

    def rows(self, slots: list[int], positions: list[int]) -> Rows:
        """Return the plan of a step: rows ascend by slot, each at its own position.

        It is for `decode` in this thread, before the next plan is asked for.
        """
        return self._own.plans.rows(slots, positions)

    def decode(self, x: Tensor, step: Rows) -> Tensor:
        """Pass one row of each of `M` sequences through the layers.

        Args:
            x: `[M, C]` float32.
            step: from `rows`.

        Returns:
            `[M, C]` float32, a buffer that the thread's next step overwrites.
        """
        space = self._space(step.count)
        through = self._through(step.sequences)
        space.x.copy_(x)
        through(step.number, None if step.is_held else Step(space, self._plan(step)))
        step.is_held = True
        return space.x

    def _space(self, count: int) -> Buffers:
        found = self._own.spaces.get(count)
        if found is None:
            found = workspace(self.architecture, count, self.dtype)
            self._own.spaces[count] = found
        return found

    def _plan(self, step: Rows) -> Plan:
        views = [self.cache.views(run) for run in step.runs]
        heads = self.architecture.kv_heads
        return Plan(
            turns=step.turns.parts if step.turns else [],
            targets=step.targets,
            bounds=[(run.first * heads, run.last * heads) for run in step.runs],
            masks=[run.mask for run in step.runs],
            keys=[keys for keys, _ in views],
            values=[values for _, values in views],
        )

    def _through(self, sequences: int) -> Through:
        """Return what passes rows of so many sequences through the layers."""
        found = self._own.throughs.get(sequences)
        if found is None:
            alike = 1 if self._is_steady else sequences
            with self._compiling:
                found = self._own.throughs[sequences] = compiled(
                    Through(
                        [layer.tensors(alike) for layer in self.layers],
                        self.cache.flat,
                        self.architecture.norm_eps,
                        self._scale,
                        self.architecture.family == "llama",
                    )
                )
        return found


def _biased(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x.add_(bias)


def _read_layer(
    checkpoint: Checkpoint, index: int, form: str, has_wide: bool, dtype: torch.dtype
) -> Layer:
    name = f"layers.{index}"
    is_fused = checkpoint.has(f"{name}.qkv.weight")
    is_gated = checkpoint.has(f"{name}.gate.weight")
    qkv = ("qkv",) if is_fused else ("q", "k", "v")
    up = ("gate", "up") if is_gated else ("up",)

    def product(*parts: str) -> Matrix:
        weights = [checkpoint.read(f"{name}.{part}.weight") for part in parts]
        return matrix(join(weights), form, has_wide)

    def bias(*parts: str) -> Tensor | None:
        names = [f"{name}.{part}.bias" for part in parts]
        if not all(checkpoint.has(each) for each in names):
            return None
        return torch.cat([dense(checkpoint.read(each)) for each in names]).to(dtype)

    return Layer(
        attn_norm=read_norm(checkpoint, f"{name}.attn_norm"),
        qkv=product(*qkv),
        qkv_bias=bias(*qkv),
        o=product("o"),
        o_bias=bias("o"),
        mlp_norm=read_norm(checkpoint, f"{name}.mlp_norm"),
        up=product(*up),
        up_bias=bias(*up),
        down=product("down"),
        down_bias=bias("down"),
    )


def read_norm(checkpoint: Checkpoint, name: str) -> Norm:
    """Return the norm of that name."""
    weight = dense(checkpoint.read(f"{name}.weight"))
    has_bias = checkpoint.has(f"{name}.bias")
    bias = dense(checkpoint.read(f"{name}.bias")) if has_bias else None
    return Norm(weight, bias, weight * sqrt(weight.numel()))

"""Keeps keys and values, turns positions, and attends: one sequence's chunk, or many rows.

Arithmetic; used by `models.decoder`. Each sequence owns a slot: a slab of `cap` positions
in every layer. The slabs lie side by side, so rows of neighbouring slots attend in one
product, each masked to its own length. The memory is mapped but empty: only positions
that were written take room.

Keys and values are float32. For one new row a head, float32 products are twice as fast here
as the fused bf16 kernel, and measured bit by bit they do not depend on how far the mask
pads a row, or how many rows go together; bf16 ones do. (With four queries or more a head of
keys, MKL cuts long rows into blocks, and their sums do depend on the padding, in the last bit.)
They are read from memory, not from caches, so what padding adds costs as what was said.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mesh.models.architecture import Architecture, frequencies

ROUND = 16  # lengths are padded to this, a vector of float32: no loop over one ends in a tail
VIEWS_MAX = 256  # of runs of slots, before they are made anew


@dataclass(frozen=True, slots=True)
class Run:
    """Rows `first..last` of a step, whose slots follow one another from `slot` on.

    `padded` positions are read; `mask` is `[rows·K, 1, padded]`, 0 or -inf.
    """

    first: int
    last: int
    slot: int
    padded: int
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """One decoding step: a row for each of `M` sequences, ordered by slot.

    Attributes:
        sequences: whose rows they are; fewer than rows where some have several.
        turns: see `Rotary.rows`; none without rotary positions.
        targets: `[M·2K]` where the rows' keys and values are written.
        runs: what attends together.
    """

    count: int
    sequences: int
    turns: tuple[Tensor, ...]
    targets: Tensor
    runs: tuple[Run, ...]


class KeyValues:
    """Keys and values of one node's layers, `[2, S, K, cap, D]` float32 for each."""

    def __init__(self, architecture: Architecture, layers: int, slots: int, cap: int) -> None:
        assert cap % ROUND == 0, f"positions per slot must be a multiple of {ROUND}, not {cap}"
        self.slots, self.cap = slots, cap
        self.heads, self.head_width = architecture.kv_heads, architecture.head_width
        shape = (2, slots, self.heads, cap, self.head_width)
        self.layer_bytes = 4 * prod(shape)
        self.position_bytes = 8 * layers * self.heads * self.head_width
        # An anonymous mapping reads as zeros and takes no memory before it is written. Private:
        # what is given back of a shared one would keep its content.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = [mmap.mmap(-1, self.layer_bytes, flags=flags) for _ in range(layers)]
        self.layers = [
            torch.frombuffer(memory, dtype=torch.float32).view(shape) for memory in self._memory
        ]
        self.flat = [layer.view(-1, self.head_width) for layer in self.layers]
        self._views: dict[tuple[int, int, int], tuple[list[Tensor], list[Tensor]]] = {}
        heads = torch.arange(self.heads)
        both = torch.cat([heads, heads + slots * self.heads])
        self._offsets = both * cap  # [2K]

    def targets(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Return `[M·2K]` places of the rows' keys, then values, in a flat layer."""
        bases = slots * (self.heads * self.cap) + positions
        return (bases[:, None] + self._offsets).view(-1)

    def write_chunk(self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Put `[T, K, D]` keys and values at positions `start…`."""
        stop = start + keys.shape[0]
        self.layers[layer][0, slot, :, start:stop] = keys.transpose(0, 1)
        self.layers[layer][1, slot, :, start:stop] = values.transpose(0, 1)

    def read(self, layer: int, slot: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return `[K, stop, D]` keys and values of one slot."""
        both = self.layers[layer]
        return both[0, slot, :, :stop], both[1, slot, :, :stop]

    def views(self, run: Run) -> tuple[list[Tensor], list[Tensor]]:
        """Return per layer `[rows·K, D, padded]` keys, and `[rows·K, padded, D]` values."""
        key = (run.slot, run.last - run.first, run.padded)
        found = self._views.get(key)
        if found is None:
            if len(self._views) >= VIEWS_MAX:
                self._views.clear()
            pairs = [self._view(layer, *key) for layer in self.layers]
            found = self._views[key] = [k for k, _ in pairs], [v for _, v in pairs]
        return found

    def _view(self, layer: Tensor, slot: int, count: int, padded: int) -> tuple[Tensor, Tensor]:
        first, last = slot * self.heads, (slot + count) * self.heads
        flat = layer.view(2, -1, self.cap, self.head_width)
        return (
            flat[0, first:last, :padded].transpose(1, 2),
            flat[1, first:last, :padded],
        )

    def give_back(self, slot: int) -> None:
        """Return the slot's memory to the system; it reads as zeros afterwards."""
        size = 4 * self.heads * self.cap * self.head_width
        if size % mmap.PAGESIZE:
            return  # tiny models: slots share pages, and the pages are few
        for memory in self._memory:
            for side in range(2):
                memory.madvise(mmap.MADV_DONTNEED, (side * self.slots + slot) * size, size)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copy positions `start…stop` of one slot to another."""
        for layer in self.layers:
            layer[:, target, :, start:stop] = layer[:, source, :, start:stop]


class Rotary:
    """How far each pair of a head turns at each position: `[cap, D/2]` complex."""

    def __init__(self, architecture: Architecture, cap: int, factors: Tensor | None = None) -> None:
        angles = torch.tensor(frequencies(architecture), dtype=torch.float64)
        if factors is not None:
            angles = angles / factors.to(torch.float64)
        turns = torch.outer(torch.arange(cap, dtype=torch.float64), angles)
        self.table = torch.polar(torch.ones_like(turns), turns).to(torch.complex64)
        self._still = torch.ones(1, architecture.kv_heads, 1, dtype=torch.complex64)
        self._heads, self._kv_heads = architecture.heads, architecture.kv_heads

    def rows(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Return how far each head turns; values stay.

        `[M, 1, D/2]` for queries and `[M, 2K, D/2]` for keys and values; of one row, both
        together, as there they lie one after the other.
        """
        turns = self.table[positions][:, None]
        count, half = turns.shape[0], turns.shape[2]
        turning = self._kv_heads + (self._heads if count == 1 else 0)
        still = self._still.expand(count, self._kv_heads, half)
        joined = torch.cat([turns.expand(count, turning, half), still], dim=1)
        return (joined,) if count == 1 else (turns, joined)

    def chunk(self, start: int, stop: int) -> Tensor:
        """Return `[T, 1, D/2]`."""
        return self.table[start:stop, None]


def rows(
    cache: KeyValues, rotary: Rotary | None, slots: Sequence[int], positions: Sequence[int]
) -> Rows:
    """Return the plan of a decoding step; slots ascend, and positions within a slot.

    Several rows of one slot are several positions of one sequence: each sees those before it.
    """
    places, lengths = torch.tensor(slots), torch.tensor(positions)
    return Rows(
        count=len(slots),
        sequences=len(set(slots)),
        turns=rotary.rows(lengths) if rotary else (),
        targets=cache.targets(places, lengths),
        runs=tuple(_run(cache, lengths, *bounds) for bounds in runs(slots, positions)),
    )


def runs(slots: Sequence[int], positions: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Return `(first, last, slot, padded)` of the rows that attend together.

    Rows join while their slots are neighbours and the padding stays below what a product
    of its own would cost: a call is worth about 512 positions of one row.
    """
    found: list[tuple[int, int, int, int]] = []
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        padded = -(-(position + 1) // ROUND) * ROUND
        if found:
            first, last, start, longest = found[-1]
            count = last - first
            waste = abs(longest - padded) * (count if padded > longest else 1)
            if slot == start + count and waste <= 512:
                found[-1] = (first, row + 1, start, max(longest, padded))
                continue
        found.append((row, row + 1, slot, padded))
    return found


def _run(cache: KeyValues, lengths: Tensor, first: int, last: int, slot: int, padded: int) -> Run:
    is_ahead = torch.arange(padded) > lengths[first:last, None]
    mask = torch.zeros(last - first, padded).masked_fill_(is_ahead, float("-inf"))
    return Run(first, last, slot, padded, mask.repeat_interleave(cache.heads, 0)[:, None])


def attend_chunk(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attend a chunk to itself and what stands before it.

    Args:
        queries: `[T, H, D]`.
        keys: `[K, S, D]`; the chunk is its last T positions.
        values: `[K, S, D]`.
        mask: `[T, S]` bool, True where it may look; None when S = T.

    Returns:
        `[T, H·D]`.
    """
    seen = scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=keys.shape[0] != queries.shape[1],
    )
    return seen[0].transpose(0, 1).reshape(queries.shape[0], -1)


def chunk_mask(start: int, count: int) -> Tensor | None:
    """Return `[T, S]`: position `start + t` sees up to itself; None when nothing is before."""
    if start == 0:
        return None
    return torch.arange(start + count) <= torch.arange(start, start + count)[:, None]

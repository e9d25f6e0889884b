"""Keeps keys and values, turns positions, and attends: one sequence's chunk, or many rows.

Arithmetic; used by `models.decoder`. Each sequence owns a slot: a slab of `cap` positions
in every layer. The slabs lie side by side, so rows of neighbouring slots attend in one
product, each masked to its own length. The memory is mapped but empty: only positions
that were written take room.

Keys and values are float32. For one new row a head, float32 products are twice as fast here
as the fused bf16 kernel, and measured bit by bit they do not depend on how far the mask
pads a row, or how many rows go together; bf16 ones do. The one exception is padded over
(`padded_to`). They are read from memory, not from caches, so padding costs as much as what
was said.
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
# MKL adds up to so many products in one go. With that many queries a head of keys it cuts longer
# sums in two, in the middle; from twice as many on it goes by whole lengths again.
SUMMED, QUERIES_CUT = 192, 4
VIEWS_MAX = 256  # of runs of slots, before they are made anew
PLANS_MAX = 8  # kept to be gone on from: steps of other slots may take turns


@dataclass(frozen=True, slots=True)
class Run:
    """Rows `first..last` of a step, whose slots follow one another from `slot` on.

    `padded` positions are read; `mask` is `[rows·K, 1, padded]`, 0 or -inf, and `flat` the same.
    `own` are places in `flat`: the rows' own positions, the last that each of them sees.
    """

    first: int
    last: int
    slot: int
    padded: int
    mask: Tensor
    flat: Tensor
    own: Tensor

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Return it as `runs` does."""
        return self.first, self.last, self.slot, self.padded


class Turns:
    """How far each head of each row turns.

    Attributes:
        parts: what queries `[M, 1, D/2]`, and then keys and values `[M, 2K, D/2]`, are
            multiplied with; values stay. Of one row all together, as they lie there.
    """

    def __init__(self, table: Tensor, heads: int, kv_heads: int, positions: Tensor) -> None:
        count, half = len(positions), table.shape[1]
        turning = kv_heads + (heads if count == 1 else 0)
        joined = torch.ones(count, turning + kv_heads, half, dtype=table.dtype)
        self._table, self._each = table, torch.empty(count, half, dtype=table.dtype)
        # Views cost as much as what is done with them.
        self._turn, self._turning = self._each[:, None], joined[:, :turning]
        self.parts = [joined] if count == 1 else [self._turn, joined]
        self.move(positions)

    def move(self, positions: Tensor) -> None:
        """Make it that of rows at these positions."""
        torch.index_select(self._table, 0, positions, out=self._each)
        self._turning.copy_(self._turn)


@dataclass(slots=True)
class Rows:
    """One decoding step: a row for each of `M` sequences, ordered by slot.

    Attributes:
        sequences: whose rows they are; fewer than rows where some have several.
        positions: of the rows.
        counters: all numbers that are one more in the next step, in one tensor: `places`,
            `targets`, and `own` of each run.
        places: the positions again.
        targets: `[M·2K]` where the rows' keys and values are written.
        turns: None without rotary positions.
        runs: what attends together.
        number: unlike that of any plan which may still be gone on from.
        is_held: it was handed over to be made again.
    """

    sequences: int
    positions: list[int]
    counters: Tensor
    places: Tensor
    targets: Tensor
    turns: Turns | None
    runs: tuple[Run, ...]
    number: int = 0
    is_held: bool = False

    @property
    def count(self) -> int:
        """How many rows."""
        return len(self.positions)


class KeyValues:
    """Keys and values of one node's layers, `[2, S, K, cap, D]` float32 for each."""

    def __init__(self, architecture: Architecture, layers: int, slots: int, cap: int) -> None:
        assert cap % ROUND == 0, f"positions per slot must be a multiple of {ROUND}, not {cap}"
        self.slots, self.cap = slots, cap
        self.heads, self.head_width = architecture.kv_heads, architecture.head_width
        self.queries = architecture.heads // self.heads
        # Of a slab; more than may be written where more is read.
        self._length = max(cap, padded_to(cap, self.queries))
        shape = (2, slots, self.heads, self._length, self.head_width)
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
        values = slots * self.heads  # the first head of values, behind all of keys
        heads = (*range(self.heads), *range(values, values + self.heads))
        self._offsets = [head * self._length for head in heads]
        self._edge = torch.zeros(2 * self._length)  # each row's mask is a stretch of it
        self._edge[self._length :] = float("-inf")

    def targets(self, slots: Sequence[int], positions: Sequence[int]) -> list[int]:
        """Return `M·2K` places of the rows' keys, then values, in a flat layer."""
        width = self.heads * self._length
        bases = [slot * width + at for slot, at in zip(slots, positions, strict=True)]
        return [base + offset for base in bases for offset in self._offsets]

    def mask(self, places: Tensor, padded: int) -> Tensor:
        """Return `[M·K, 1, padded]`: rows at these positions see up to themselves."""
        starts = torch.rsub(places, self._length - 1).repeat_interleave(self.heads)
        return self._edge.unfold(0, padded, 1).index_select(0, starts)[:, None]

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
        flat = layer.view(2, -1, self._length, self.head_width)
        return (
            flat[0, first:last, :padded].transpose(1, 2),
            flat[1, first:last, :padded],
        )

    def give_back(self, slot: int) -> None:
        """Return the slot's memory to the system; it reads as zeros afterwards."""
        size = 4 * self.heads * self._length * self.head_width
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
        self._heads, self._kv_heads = architecture.heads, architecture.kv_heads

    def rows(self, positions: Tensor) -> Turns:
        """Return how far each head of rows at these positions turns."""
        return Turns(self.table, self._heads, self._kv_heads, positions)

    def chunk(self, start: int, stop: int) -> Tensor:
        """Return `[T, 1, D/2]`."""
        return self.table[start:stop, None]


class Plans:
    """Plans of decoding steps; one that follows the last of the same slots is made from it."""

    def __init__(self, cache: KeyValues, rotary: Rotary | None) -> None:
        self._cache, self._rotary = cache, rotary
        self._last: dict[tuple[int, ...], Rows] = {}

    def rows(self, slots: Sequence[int], positions: Sequence[int]) -> Rows:
        """Return the plan, which belongs to the caller until the next one of these slots."""
        key = tuple(slots)
        last = self._last.get(key)
        follows = last is not None and positions == [at + 1 for at in last.positions]
        if last is not None and follows and advance(last, slots, self._cache.queries):
            return last
        if last is None and len(self._last) >= PLANS_MAX:
            self._last.clear()
        found = rows(self._cache, self._rotary, slots, positions)
        found.number = len(self._last) if last is None else last.number
        self._last[key] = found
        return found


def rows(
    cache: KeyValues, rotary: Rotary | None, slots: Sequence[int], positions: Sequence[int]
) -> Rows:
    """Return the plan of a decoding step; slots ascend, and positions within a slot.

    Several rows of one slot are several positions of one sequence: each sees those before it.
    """
    bounds = runs(slots, positions, cache.queries)
    targets = cache.targets(slots, positions)
    own = [place for each in bounds for place in _own(positions, cache.heads, *each)]
    # One tensor made of a list takes less than a few operations on small ones.
    counters = torch.tensor([*positions, *targets, *own])
    places, own_places = counters[: len(positions)], counters[-len(own) :]
    return Rows(
        sequences=len(set(slots)),
        positions=list(positions),
        counters=counters,
        places=places,
        targets=counters[len(positions) : -len(own)],
        turns=rotary.rows(places) if rotary else None,
        runs=tuple(_run(cache, places, own_places, *each) for each in bounds),
    )


def advance(step: Rows, slots: Sequence[int], queries: int) -> bool:
    """Move each row one position on, in place, to what `rows` would return for that.

    Returns:
        Whether that could be done: not where other rows attend together then, or more positions
        are read. The plan is as it was then.
    """
    positions = [at + 1 for at in step.positions]
    is_longer = not all(at % ROUND for at in positions)
    if is_longer and runs(slots, positions, queries) != [run.bounds for run in step.runs]:
        return False
    step.positions = positions
    step.counters += 1
    if step.turns:
        step.turns.move(step.places)
    for run in step.runs:
        run.flat.index_fill_(0, run.own, 0.0)
    return True


def padded_to(length: int, queries: int) -> int:
    """Return how many positions are read for so many; beyond, the mask hides them.

    At any such length, a row's sums are the same bit by bit, for so many queries a head of keys.
    """
    padded = -(-length // ROUND) * ROUND
    is_cut = queries >= QUERIES_CUT and SUMMED < padded < 2 * SUMMED
    return 2 * SUMMED if is_cut else padded


def runs(
    slots: Sequence[int], positions: Sequence[int], queries: int = 1
) -> list[tuple[int, int, int, int]]:
    """Return `(first, last, slot, padded)` of the rows that attend together.

    Rows join while their slots are neighbours and the padding stays below what a product
    of its own would cost: a call is worth about 512 positions of one row.
    """
    found: list[tuple[int, int, int, int]] = []
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        padded = padded_to(position + 1, queries)
        if found:
            first, last, start, longest = found[-1]
            count = last - first
            waste = abs(longest - padded) * (count if padded > longest else 1)
            if slot == start + count and waste <= 512:
                found[-1] = (first, row + 1, start, max(longest, padded))
                continue
        found.append((row, row + 1, slot, padded))
    return found


def _own(
    positions: Sequence[int], heads: int, first: int, last: int, slot: int, padded: int
) -> list[int]:
    lines = enumerate(at for at in positions[first:last] for _ in range(heads))
    return [line * padded + at for line, at in lines]


def _run(
    cache: KeyValues, places: Tensor, own: Tensor, first: int, last: int, slot: int, padded: int
) -> Run:
    mask = cache.mask(places[first:last], padded)
    own = own[first * cache.heads : last * cache.heads]
    return Run(first, last, slot, padded, mask, mask.view(-1), own)


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

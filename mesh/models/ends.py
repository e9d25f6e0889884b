"""Computes both ends of a decoder: tokens to rows, and rows to scores of the next token.

Arithmetic; used by `llm.engine` on the node that samples. Quantised products round their
results to bf16, too coarse to tell the best token from the second best (0.125 at 16). So
the quantised matrix only screens: the best `SCREENED` of a row are computed again from the
table's own numbers in float32. And as it only screens, 4 bits do: the output matrix of a small
model is a fifth of what a step reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from mesh.models.checkpoint import Checkpoint
from mesh.models.decoder import read_norm
from mesh.models.quantize import GROUP, Blocks, Int4, Int8, Weight, to_int4

# In 4,000 steps of SmolLM2 the best token was never below place 8 of the 4-bit screen, and in
# first place in 90 % of them; of an 8-bit one, never below place 3.
SCREENED = 64


class Table:
    """Rows of a matrix, one by one, as exact as the checkpoint has them."""

    def __init__(self, weight: Weight, dtype: torch.dtype) -> None:
        is_kept = isinstance(weight, Blocks) and weight.bits == 8
        if isinstance(weight, Blocks) and not is_kept:
            weight = weight.dense()
        if isinstance(weight, Tensor) and dtype != torch.float32:
            weight = weight.to(torch.bfloat16)
        self._weight = weight
        self.size_bytes = _size_bytes(weight)

    def rows(self, ids: Tensor) -> Tensor:
        """Return `[…, C]` float32 for ids of any shape."""
        if isinstance(self._weight, Tensor):
            return self._weight[ids].to(torch.float32)
        codes = self._weight.codes[ids].to(torch.float32)
        scaled = codes.unflatten(-1, (-1, GROUP)) * self._weight.scale[ids][..., None]
        return scaled.flatten(-2)

    def dense(self) -> Tensor:
        """Return `[V, C]` float32."""
        if isinstance(self._weight, Blocks):
            return self._weight.dense()
        return self._weight.to(torch.float32)


def _size_bytes(weight: Weight) -> int:
    if isinstance(weight, Tensor):
        return weight.numel() * weight.element_size()
    return weight.codes.numel() + 4 * weight.scale.numel()


class Ends:
    """Embedding, last norm and output matrix of a model."""

    def __init__(self, checkpoint: Checkpoint, *, form: str = "auto") -> None:
        """Read them.

        Args:
            checkpoint: the opened model.
            form: "float32" computes every score exactly; any other screens.
        """
        shape = checkpoint.architecture
        self._shape = shape
        dtype = torch.float32 if form == "float32" else torch.bfloat16
        self._embed = Table(checkpoint.read("embed.weight"), dtype)
        self._position: Table | None = None
        if checkpoint.has("position.weight"):
            self._position = Table(checkpoint.read("position.weight"), torch.float32)
        self._norm = read_norm(checkpoint, "final_norm")
        self._head = self._embed
        if not shape.is_tied:
            self._head = Table(checkpoint.read("head.weight"), dtype)
        dense = self._head.dense()
        self._exact: Tensor | None = dense if form == "float32" else None
        # 4 bits find the best; 8 bits where all scores count, because chance is drawn from them.
        self._screen: Int4 | Int8 | None = None
        self._coarse: Int8 | None = None
        if form != "float32":
            self._coarse = Int8(dense, has_wide=False)
            self._screen = _four_bits(dense) if dense.shape[1] % GROUP == 0 else self._coarse

    def size_bytes(self) -> int:
        """Return what tables and matrices take."""
        tables = {id(table): table.size_bytes for table in (self._embed, self._head)}
        screens = {id(each): each.size_bytes for each in (self._screen, self._coarse) if each}
        exact = 4 * self._exact.numel() if self._exact is not None else 0
        return sum(tables.values()) + sum(screens.values()) + exact

    def embed(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Return `[M, C]` float32."""
        x = self._embed.rows(torch.tensor(tokens))
        if self._position:
            x += self._position.rows(torch.tensor(positions))
        return x

    def best(self, x: Tensor) -> list[int]:
        """Return the most likely next token of each row of `[M, C]`."""
        normed = self._norm.wide(x, self._shape.norm_eps)
        if self._exact is not None:
            return linear(normed, self._exact).argmax(-1).tolist()  # type: ignore[no-any-return]
        assert self._screen is not None
        _, ids, scores = self._screened(self._screen, normed)
        return ids.gather(1, scores.argmax(-1, keepdim=True))[:, 0].tolist()  # type: ignore[no-any-return]

    def scores(self, x: Tensor) -> Tensor:
        """Return `[M, V]` float32 logits of the next token."""
        normed = self._norm.wide(x, self._shape.norm_eps)
        if self._exact is not None:
            return linear(normed, self._exact)
        assert self._coarse is not None
        coarse, ids, scores = self._screened(self._coarse, normed)
        return coarse.to(torch.float32).scatter_(1, ids, scores)

    def _screened(self, screen: Int4 | Int8, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return coarse `[M, V]`, then ids and exact scores `[M, 64]` of the best."""
        coarse = screen.narrow(normed.to(torch.bfloat16))[:, : self._shape.vocabulary]
        ids = coarse.topk(min(SCREENED, coarse.shape[1]), sorted=False).indices
        # Not a matrix product: its kernels, and so its last bits, change with the number of rows.
        exact = self._head.rows(ids).mul_(normed[:, None]).sum(-1)
        return coarse, ids, exact


def _four_bits(dense: Tensor) -> Int4:
    """Return the matrix in 4 bits, with rows of zeros up to a multiple of 16."""
    padded = torch.zeros(-(-dense.shape[0] // 16) * 16, dense.shape[1])
    padded[: dense.shape[0]] = dense
    group = 2 * GROUP if dense.shape[1] % (2 * GROUP) == 0 else GROUP  # fewer scales to read
    return Int4(to_int4(padded, group), has_wide=False)

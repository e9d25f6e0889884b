"""Computes both ends of a decoder: tokens to rows, and rows to scores of the next token.

Arithmetic; used by `llm.engine` on the node that samples. Quantised products are too coarse
to tell the best token from the second best. So the quantised matrix only screens
(`models.screen`): the best of a row are computed again from the table's own numbers in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from mesh.models.checkpoint import Checkpoint
from mesh.models.decoder import read_norm
from mesh.models.quantize import GROUP, Blocks, Weight
from mesh.models.screen import Screen


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
        flat = ids.reshape(-1)  # of one dimension they are gathered twice as fast
        if isinstance(self._weight, Tensor):
            found = self._weight.index_select(0, flat).to(torch.float32)
        else:
            codes = self._weight.codes.index_select(0, flat).to(torch.float32)
            scale = self._weight.scale.index_select(0, flat)
            found = (codes.unflatten(-1, (-1, GROUP)) * scale[..., None]).flatten(-2)
        return found.view(*ids.shape, -1)

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
        self._screen: Screen | None = None
        if form != "float32":
            self._screen = Screen(dense[: shape.vocabulary])

    def size_bytes(self) -> int:
        """Return what tables and matrices take."""
        tables = {id(table): table.size_bytes for table in (self._embed, self._head)}
        screens = self._screen.size_bytes if self._screen is not None else 0
        exact = 4 * self._exact.numel() if self._exact is not None else 0
        return sum(tables.values()) + screens + exact

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
        ids = self._screen.best(normed)
        at = self._again(ids, normed).argmax(-1, keepdim=True)
        return ids.gather(1, at)[:, 0].tolist()  # type: ignore[no-any-return]

    def scores(self, x: Tensor) -> Tensor:
        """Return `[M, V]` float32 logits of the next token."""
        normed = self._norm.wide(x, self._shape.norm_eps)
        if self._exact is not None:
            return linear(normed, self._exact)
        assert self._screen is not None
        coarse, ids = self._screen.scores(normed)
        return coarse.scatter_(1, ids, self._again(ids, normed))

    def _again(self, ids: Tensor, normed: Tensor) -> Tensor:
        """Return the exact scores of some tokens of each row."""
        # Not a matrix product: its kernels, and so its last bits, change with the number of rows.
        return self._head.rows(ids).mul_(normed[:, None]).sum(-1)

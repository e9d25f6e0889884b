"""The arithmetic of the `tensor` role: five layers of `tanh(x @ W)`, exact in every sum.

Arithmetic (NumPy). The layers amplify: a change of the last bit of one sum, which is all
that another BLAS kernel, batch size or split of W makes, moves an output by up to one per
cent. So here no sum is rounded: inputs and weights are brought to grids on which each
product of two of them, and any sum of 1024 such products, is a whole number of grid steps
below 2**53 and therefore exact in float64, whatever the order of the additions.

    x on 2**-24, |x| <= 1              25 bits
    W = HIGH on 2**-14, |HIGH| < 8     18 bits     25 + 18 + 10 (1024 terms) = 53
      + LOW  on 2**-32, |LOW| <= 2**-15

    x @ W = x @ HIGH + x @ LOW         two exact products, one rounding

That is finer than float32 arithmetic, in which W is given, and it makes three laws hold
bit by bit: a batch's answer is the answer alone, columns computed apart are the columns of
the whole, and every worker answers alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTH = 1024
LAYERS = 5
OUTPUTS = 1000
SEED = 42  # plus the shard: the contract's weights

_X_STEPS = 2.0**24
_HIGH_STEPS = 2.0**14
_LOW_STEPS = 2.0**32
_WEIGHT_MAX = 8.0  # normal numbers of float32 do not reach it

Array = NDArray[np.float64]


def weights(shard: int = 0) -> NDArray[np.float32]:
    """Return the contract's W, [WIDTH, WIDTH] float32, of one shard."""
    return np.random.RandomState(SEED + shard).randn(WIDTH, WIDTH).astype(np.float32)


def columns_of(part: int, parts: int) -> slice:
    """Return the columns that part `part` of `parts` computes; sizes differ by one at most."""
    assert 0 <= part < parts <= WIDTH
    return slice(part * WIDTH // parts, (part + 1) * WIDTH // parts)


class Layers:
    """W, or some of its columns, prepared for exact products."""

    def __init__(self, shard: int = 0, columns: slice = slice(None)) -> None:
        whole = weights(shard)[:, columns].astype(np.float64)
        assert np.abs(whole).max() < _WEIGHT_MAX
        high = np.rint(whole * _HIGH_STEPS) / _HIGH_STEPS
        low = np.rint((whole - high) * _LOW_STEPS) / _LOW_STEPS
        self._parts = np.ascontiguousarray(np.concatenate([high, low], axis=1))  # [WIDTH, 2n]
        self._count = whole.shape[1]

    @property
    def resident_bytes(self) -> int:
        """What the prepared weights occupy."""
        return self._parts.nbytes

    def step(self, x: Array, scale: Array | float = 1.0) -> Array:
        """Return tanh(scale * x @ W), on the grid: [B, WIDTH] → [B, columns].

        Args:
            x: rows on the grid, within [-1, 1].
            scale: [B, 1] powers of two, so that multiplying rounds nothing.
        """
        sums = x @ self._parts
        with np.errstate(over="ignore"):  # tanh(inf) is 1.0, as it should be
            y = (sums[:, : self._count] + sums[:, self._count :]) * scale
        return np.rint(np.tanh(y) * _X_STEPS) / _X_STEPS


def enter(rows: NDArray[np.floating]) -> tuple[Array, Array]:
    """Return inputs on the grid and the power of two that each row was divided by.

    Rows may be of any size: each is scaled into [-1, 1], and the first `step` scales back.
    """
    x = rows.astype(np.float64)
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    mantissa, exponent = np.frexp(largest)  # largest < 2**exponent; 0 of a row of zeros
    # A row that ends at a power of two keeps it as its 1.0: what is on the grid stays as it is.
    scale = np.ldexp(1.0, exponent - (mantissa == 0.5))
    return np.rint(x / scale * _X_STEPS) / _X_STEPS, scale


def leave(x: Array) -> NDArray[np.float32]:
    """Return the answer: sizes of the first OUTPUTS values as shares of their sum, [B, OUTPUTS].

    The sum is of whole grid steps below 2**53, hence exact as well. Zeros stay zeros.
    """
    size = np.abs(x[:, :OUTPUTS])
    total = size.sum(axis=1, keepdims=True)
    return (size / np.where(total > 0.0, total, 1.0)).astype(np.float32)


def forward(layers: Layers, rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the engine's answers, [B, OUTPUTS], to inputs [B, WIDTH] with the whole W."""
    x, scale = enter(rows)
    x = layers.step(x, scale)
    for _ in range(LAYERS - 1):
        x = layers.step(x)
    return leave(x)

"""The model that all contestants serve: an MLP 64 → 256 → 64 in NumPy, with fixed weights.

Arithmetic. It imports nothing but NumPy, so that it runs in each peer's own environment.
"""

import numpy as np

WIDTH = 64
HIDDEN = 256

_rng = np.random.default_rng(0)
_UP = _rng.standard_normal((WIDTH, HIDDEN), dtype=np.float32) / 8
_DOWN = _rng.standard_normal((HIDDEN, WIDTH), dtype=np.float32) / 16


def forward(x: np.ndarray) -> np.ndarray:
    """Return the answers to rows [B, 64] float32."""
    return np.maximum(x @ _UP, 0.0) @ _DOWN


def inputs(count: int, seed: int = 1) -> np.ndarray:
    """Return rows to ask, [count, 64] float32 with four decimals."""
    rows = np.random.default_rng(seed).standard_normal((count, WIDTH))
    return np.round(rows, 4).astype(np.float32)

"""Roles that only benchmarks serve: `kind = "bench.models:Mlp"`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bench.mlp import forward
from mesh.roles.base import Role
from mesh.wire.messages import Fields


class Mlp(Role):
    """`x`, 64 numbers, to `y`, 64 numbers."""

    takes: ClassVar[Mapping[str, Any]] = {"x": list}
    gives: ClassVar[tuple[str, ...]] = ("y",)

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Answer the batch in two products."""
        y = forward(np.array([item["x"] for item in batch], dtype=np.float32)).tolist()
        return [{"y": row} for row in y]

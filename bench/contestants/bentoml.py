"""BentoML: one service, its own adaptive batching up to 32."""

from __future__ import annotations

import os
import sys

import bentoml
import numpy as np

from bench.mlp import forward


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Mlp:
    """The model; BentoML joins requests along their first axis."""

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000, route="/")
    def answer(self, x: np.ndarray) -> np.ndarray:
        """Answer one batch of rows."""
        return forward(x.astype(np.float32))


if __name__ == "__main__":
    command = ["serve", "bench.contestants.bentoml:Mlp", "--host", "127.0.0.1", "--port"]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command, sys.argv[1]])

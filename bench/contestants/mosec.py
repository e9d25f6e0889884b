"""Mosec: a Rust front, one worker process, batches up to 32."""

from __future__ import annotations

import sys

import numpy as np
import orjson
from mosec import Server, Worker

from bench.mlp import forward


def compute(data: list[list[float]]) -> list[list[float]]:
    """Answer one batch."""
    return forward(np.array(data, dtype=np.float32)).tolist()


class Mlp(Worker):
    """The model as the documentation shows: JSON by the standard library."""

    def forward(self, data: list[dict]) -> list[dict]:
        """Answer one batch."""
        return [{"y": row} for row in compute([item["x"] for item in data])]


class Tuned(Worker):
    """The model with the faster JSON."""

    def deserialize(self, data: bytes) -> list[float]:
        """Read one request."""
        return orjson.loads(data)["x"]

    def serialize(self, data: list[float]) -> bytes:
        """Write one answer."""
        return orjson.dumps({"y": data})

    def forward(self, data: list[list[float]]) -> list[list[float]]:
        """Answer one batch."""
        return compute(data)


if __name__ == "__main__":
    tuned = sys.argv[2:] == ["tuned"]
    # The least that its window takes is 1 ms; 0 stands for its default of 10.
    worker, wait_ms = (Tuned, 1) if tuned else (Mlp, 0)
    sys.argv[1:] = ["--port", sys.argv[1], "--log-level", "error"]
    server = Server()
    server.append_worker(worker, num=1, max_batch_size=32, max_wait_time=wait_ms)
    server.run()

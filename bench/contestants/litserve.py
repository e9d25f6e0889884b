"""LitServe: FastAPI in front, one worker process, batches up to 32."""

from __future__ import annotations

import sys

import litserve
import numpy as np

from bench.mlp import forward


class Mlp(litserve.LitAPI):
    """The model; LitServe hands `predict` the batch."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: dict) -> list[float]:
        """Read one request."""
        return request["x"]

    def batch(self, inputs: list) -> np.ndarray:
        """Join requests."""
        return np.array(inputs, dtype=np.float32)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Answer one batch."""
        return forward(np.atleast_2d(x))

    def unbatch(self, output: np.ndarray) -> list:
        """Part answers."""
        return output.tolist()

    def encode_response(self, output: list[float]) -> dict:
        """Write one answer."""
        return {"y": output}


if __name__ == "__main__":
    api = Mlp(max_batch_size=32, batch_timeout=0.0005, api_path="/")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=False)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        generate_client_file=False,
        num_api_servers=1,
        access_log=False,
    )

"""Ray Serve: its HTTP proxy, one replica, batches up to 32."""

from __future__ import annotations

import signal
import sys
import time

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from bench.mlp import forward


@serve.deployment(
    num_replicas=1, max_ongoing_requests=256, logging_config={"enable_access_log": False}
)
class Mlp:
    """The model behind `serve.batch`."""

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
    async def answer(self, rows: list[list[float]]) -> list[list[float]]:
        """Answer one batch."""
        return forward(np.array(rows, dtype=np.float32)).tolist()

    async def __call__(self, request: Request) -> dict:
        """Answer one request."""
        body = await request.json()
        return {"y": await self.answer(body["x"])}


def main(port: int) -> None:
    """Serve until told to end."""
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Mlp.bind(), blocking=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))

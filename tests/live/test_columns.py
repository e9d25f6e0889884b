"""The tensor engine split by columns over nodes answers as in one piece."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import orjson
import pytest

from mesh.models.tensor import Layers, forward
from tests.support.live import mesh, url, wait_idle

pytestmark = pytest.mark.live

TOPOLOGY = """
[mesh]
name = "columns"
[roles.infer]
kind = "columns"
nodes = ["n0"]
across = ["first", "second", "third"]
[roles.first]
kind = "tensor"
nodes = ["n0"]
parts = 3
part = 0
[roles.second]
kind = "tensor"
nodes = ["n1"]
parts = 3
part = 1
[roles.third]
kind = "tensor"
nodes = ["n2"]
parts = 3
part = 2
[roles.wrong]
kind = "columns"
nodes = ["n0"]
across = ["first", "second"]
"""
JSON = {"Content-Type": "application/json"}


def test_columns_of_three_nodes_make_the_whole(tmp_path):
    rows = np.random.default_rng(7).normal(size=(8, 1024)).astype(np.float32)
    expected = forward(Layers(), rows)

    async def ask(http, address, at):
        asked = {"request_id": f"r{at}", "model_name": "infer", "input_data": rows[at].tolist()}
        sent = io.BytesIO(orjson.dumps(asked))
        async with http.post(address, data=sent, headers=JSON) as response:
            told = await response.json()
        assert response.status == 200, told
        assert told["request_id"] == f"r{at}"
        return np.float32(told["output_data"])

    async def main():
        async with mesh(tmp_path, TOPOLOGY, 3) as (nodes, http):
            for node in nodes:
                address = url(node, "/infer")
                outputs = await asyncio.gather(*(ask(http, address, at) for at in range(8)))
                assert np.array_equal(outputs, expected)
            wrong = {"model_name": "wrong", "input_data": [1.0]}
            async with http.post(url(nodes[0], "/infer"), json=wrong) as response:
                assert "expected 1024" in (await response.json())["error"]["message"]
            bad = {"model_name": "infer", "input_data": ["x"]}
            async with http.post(url(nodes[0], "/infer"), json=bad) as response:
                assert response.status == 422
            await wait_idle(nodes)

    asyncio.run(main())

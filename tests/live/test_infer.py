"""A gateway hands tensors to workers unread, and new workers join without its help."""

from __future__ import annotations

import asyncio
import io
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import numpy as np
import orjson
import pytest

from mesh.models.tensor import Layers, forward
from mesh.settings.schema import Compute, Join, Limits
from tests.support.live import node_of, running, url, wait_idle, wait_until

pytestmark = pytest.mark.live

TOPOLOGY = """
[mesh]
name = "ring"
[roles.infer]
kind = "tensor"
replicas = 64
route = "ring"
needs = { labels = ["worker"] }
"""
SHAPE = [1, 224, 224, 3]
JSON = {"Content-Type": "application/json"}
OCTETS = {"Content-Type": "application/octet-stream"}
IMAGE = np.random.default_rng(3).random(SHAPE, dtype=np.float32)


def made(name, folder):
    """Return a node that is not started: a worker, unless it is the gateway."""
    labels = () if name == "gateway" else ("worker",)
    limits = Limits(body_bytes_max=8 << 20, deadline_s=20.0, drain_s=2.0)
    return node_of(name, folder, TOPOLOGY, limits=limits, compute=Compute(labels=labels))


def body(request_id, values, shape):
    return orjson.dumps(
        {
            "request_id": request_id,
            "model_name": "resnet50",
            "input_data": values,
            "input_shape": shape,
            "timestamp": 1.5,
        }
    )


def serving(nodes):
    """Return whether the gateway knows of every worker that its role is ready there."""
    names = {node.settings.name for node in nodes} - {"gateway"}
    found = {m.facts.name for m in nodes[0].membership.members if "infer" in m.facts.roles}
    return found == names


async def spread(http, address, count):
    """Return which worker answered each of some requests.

    One after the other: side by side, a busy owner's requests may go to the next node.
    """
    found = []
    for at in range(count):
        asked = body(f"req_{at}", [0.5, at], [2])
        async with http.post(address, data=asked, headers=JSON) as response:
            told = await response.json()
        assert told["request_id"] == f"req_{at}"
        found.append(told["node_id"])
    return found


def test_gateway_forwards_and_workers_join(tmp_path):
    async def main():
        nodes = [made(name, tmp_path) for name in ("gateway", "w1", "w2", "w3")]
        newcomer = made("w4", tmp_path)
        async with aiohttp.ClientSession() as http, running(*nodes):
            await wait_until(lambda: serving(nodes))
            gateway = url(nodes[0], "/infer")
            assert nodes[0].local.ready == ()
            await whole_image(http, [url(one, "/infer") for one in nodes])
            await wrong_bodies(http, gateway)
            before = await spread(http, gateway, 60)
            assert set(before) == {"w1", "w2", "w3"}
            again = await spread(http, gateway, 60)
            # An id has one owner; but a late one's second node may answer first.
            assert sum(one == other for one, other in zip(before, again, strict=True)) >= 50
            async with joined(newcomer, nodes[0]):
                await wait_until(lambda: serving([*nodes, newcomer]))
                after = await spread(http, gateway, 60)
                assert set(after) == {"w1", "w2", "w3", "w4"}
            await wait_idle(nodes)

    asyncio.run(main())


@asynccontextmanager
async def joined(newcomer, other):
    """Run one more node beside a running mesh."""
    seeds = Join(seeds=(other.peer_address,))
    newcomer.settings = msgspec.structs.replace(newcomer.settings, join=seeds)
    await newcomer.open()
    task = asyncio.create_task(newcomer.run_opened())
    try:
        yield
    finally:
        newcomer.stop()
        await task


async def whole_image(http, addresses):
    """Three megabytes, as JSON and as bytes, answer alike through every door."""
    expected = forward(Layers(), IMAGE.reshape(1, -1)[:, :1024])[0]
    asked = body("big-1", IMAGE.ravel().tolist(), SHAPE)
    assert len(asked) > 1 << 20
    for address in addresses:
        async with http.post(address, data=io.BytesIO(asked), headers=JSON) as response:
            told = await response.json()
        assert "error" not in told, told
        assert set(told) == {
            "request_id", "output_data", "output_shape", "inference_time_us", "node_id",
        }  # fmt: skip
        assert (told["request_id"], told["output_shape"]) == ("big-1", [1000])
        assert response.headers["X-Request-ID"] == "big-1"
        assert np.array_equal(np.array(told["output_data"], np.float32), expected)
    headers = {**OCTETS, "X-Input-Shape": "1,224,224,3", "X-Request-ID": "raw-1"}
    async with http.post(
        addresses[0], data=io.BytesIO(IMAGE.tobytes()), headers=headers
    ) as response:
        assert (await response.json())["request_id"] == "raw-1"
    named = f"{addresses[0]}?request_id=raw-2&model_name=any"
    async with http.post(named, data=io.BytesIO(IMAGE.tobytes()), headers=OCTETS) as response:
        assert (await response.json())["request_id"] == "raw-2"
    headers["Accept"] = "application/octet-stream"
    async with http.post(
        addresses[0], data=io.BytesIO(IMAGE.tobytes()), headers=headers
    ) as response:
        assert np.array_equal(np.frombuffer(await response.read(), "<f4"), expected)
        assert response.headers["X-Output-Shape"] == "1000"
        assert response.headers["X-Node-ID"] in ("w1", "w2", "w3")


WRONG = [
    (b"{bad", JSON, 422),
    (b"", JSON, 422),
    (b"[]", JSON, 422),
    (b"{}", JSON, 422),
    (b'{"input_data": "x"}', JSON, 422),
    (b'{"input_data": [1, "x"]}', JSON, 422),
    (b'{"input_data": [[1]]}', JSON, 422),
    (b'{"input_data": [1, 2], "input_shape": [3]}', JSON, 422),
    (b'{"input_data": [1], "input_shape": [-1]}', JSON, 422),
    (b'{"input_data": [1], "input_shape": "1"}', JSON, 422),
    (b"abc", OCTETS, 422),
    (np.float32([np.nan]).tobytes(), OCTETS, 422),
    (b"abcd", {**OCTETS, "X-Input-Shape": "1,x"}, 422),
    (b"abcd", {**OCTETS, "X-Input-Shape": "2"}, 422),
    (b" " * (9 << 20), JSON, 413),
]


async def wrong_bodies(http, address):
    for sent, headers, status in WRONG:
        async with http.post(address, data=io.BytesIO(sent), headers=headers) as response:
            told = await response.json()
        assert response.status == status, (sent[:80], told)
        assert told["error"]["message"], sent[:80]

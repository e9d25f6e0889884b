"""The Open Inference Protocol works against any node, with tritonclient where it is installed."""

from __future__ import annotations

import asyncio
import json
import struct

import numpy as np
import pytest

from mesh.models.tensor import Layers, forward
from tests.support.encoders import tiny_encoder
from tests.support.live import mesh, url, wait_idle
from tests.support.town import Town

pytestmark = pytest.mark.live

TOPOLOGY = """
[mesh]
name = "oip"
[models.tiny]
source = "path:FOLDER/encoder"
[roles.infer]
kind = "tensor"
nodes = ["n1"]
[roles.embed]
kind = "embed"
model = "tiny"
nodes = ["n1"]
[roles.feeling]
kind = "classify"
model = "tiny"
labels = "sentiment"
nodes = ["n1"]
[roles.count]
kind = "tests.support.roles:Count"
nodes = ["n0"]
"""
ROWS = np.random.default_rng(5).random((3, 1024), dtype=np.float32)


def text_of(folder):
    tiny_encoder(folder / "encoder")
    return TOPOLOGY.replace("FOLDER", str(folder))


def test_tritonclient_works_unchanged(tmp_path):
    client = pytest.importorskip("tritonclient.http")
    expected = forward(Layers(), ROWS)
    with Town(tmp_path, text_of(tmp_path), 2) as town:
        for node in town.nodes:
            with client.InferenceServerClient(node.http_address) as triton:
                assert triton.is_server_live()
                assert triton.is_server_ready()
                assert triton.is_model_ready("infer")
                assert triton.is_model_ready("infer", "1")
                assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
                about = triton.get_model_metadata("infer")
                assert about["inputs"][0] == {
                    "name": "input_data", "datatype": "FP32", "shape": [-1, -1],
                }  # fmt: skip
                for is_binary in (True, False):
                    given = client.InferInput("input_data", [3, 1024], "FP32")
                    given.set_data_from_numpy(ROWS, binary_data=is_binary)
                    wanted = client.InferRequestedOutput("output_data", binary_data=is_binary)
                    done = triton.infer("infer", [given], outputs=[wanted], request_id="7")
                    assert np.array_equal(done.as_numpy("output_data"), expected)
                    assert done.get_response()["id"] == "7"
                texts = client.InferInput("text", [2], "BYTES")
                texts.set_data_from_numpy(np.array([b"a dog", "café".encode()], object))
                done = triton.infer("feeling", [texts])
                assert done.as_numpy("score").shape == done.as_numpy("flagged").shape == (2,)
                assert done.as_numpy("flagged").dtype == bool
                assert len(done.as_numpy("label")) == 2
                texts.set_data_from_numpy(np.array([b"a", b"b"], object), binary_data=False)
                assert triton.infer("tiny", [texts]).as_numpy("vector").shape[0] == 2
                with pytest.raises(client.InferenceServerException, match="no model 'gone'"):
                    triton.infer("gone", [texts])


def tensor(**changes):
    given = {"name": "input_data", "shape": [1, 2], "datatype": "FP32", "data": [[0.5, 1]]}
    return {key: value for key, value in (given | changes).items() if value is not None}


def body(*inputs, **more):
    return json.dumps({"inputs": inputs, **more}).encode()


def binary(given, blob, head_bytes=None):
    head = body(given)
    size = len(head) if head_bytes is None else head_bytes
    return head + blob, {"Inference-Header-Content-Length": str(size)}


SIZED = {"data": None, "parameters": {"binary_data_size": 8}}
TEXT = {"name": "text", "shape": [1], "datatype": "BYTES"}
WRONG = [
    ("infer", b"", {}, 400),
    ("infer", b"{bad", {}, 400),
    ("infer", b"[]", {}, 400),
    ("infer", b"\xff\xfe", {}, 400),
    ("infer", body(), {}, 400),
    ("infer", body(tensor(name="x")), {}, 400),
    ("infer", body(tensor(), tensor()), {}, 400),
    ("infer", body(tensor(datatype="FP33")), {}, 400),
    ("infer", body(tensor(datatype="BYTES", data=["a", "b"])), {}, 400),
    ("infer", body(tensor(shape=[1, 3])), {}, 400),
    ("infer", body(tensor(shape=[-1, 2])), {}, 400),
    ("infer", body(tensor(shape=[2], data=[1, 2])), {}, 400),
    ("infer", body(tensor(shape=[0, 2], data=[])), {}, 400),
    ("infer", body(tensor(data=None)), {}, 400),
    ("infer", body(tensor(data=["x", "y"])), {}, 400),
    ("infer", body(tensor(data=[[1], [2, 3]])), {}, 400),
    ("infer", body(tensor(), outputs=[{"name": "other"}]), {}, 400),
    ("infer", *binary(tensor(**SIZED), b"1234567"), 400),
    ("infer", *binary(tensor(**SIZED), b"123456789"), 400),
    ("infer", *binary(tensor(**SIZED, shape=[1, 3]), b"12345678"), 400),
    ("infer", *binary(tensor(**SIZED), b"12345678", 9999), 400),
    ("infer", body(tensor()), {"Inference-Header-Content-Length": "x"}, 400),
    ("infer", *binary(tensor(**SIZED), np.float32([np.nan, 1]).tobytes()), 400),
    ("embed", body({**TEXT, "data": [5]}), {}, 400),
    ("embed", body({**TEXT, "data": ["a", "b"]}), {}, 400),
    ("embed", *binary({**TEXT, "parameters": {"binary_data_size": 6}}, b"\x09\0\0\0ab"), 400),
    ("embed", *binary({**TEXT, "parameters": {"binary_data_size": 2}}, b"\x09\0"), 400),
    ("embed", *binary({**TEXT, "parameters": {"binary_data_size": 5}}, b"\1\0\0\0\xff"), 400),
    ("gone", body(tensor()), {}, 404),
    ("count", body(tensor()), {}, 404),
    ("infer/versions/9", body(tensor()), {}, 404),
]


def test_each_wrong_body_gets_its_status_and_word(tmp_path):
    async def main():
        async with mesh(tmp_path, text_of(tmp_path), 2) as (nodes, http):
            for name, sent, headers, status in WRONG:
                address = url(nodes[0], f"/v2/models/{name}/infer")
                async with http.post(address, data=sent, headers=headers) as response:
                    told = await response.json()
                assert (response.status, list(told)) == (status, ["error"]), (name, sent, told)
            await answers(http, nodes[0])
            await wait_idle(nodes)

    asyncio.run(main())


async def answers(http, node):
    """What is right is answered, as JSON and as bytes."""
    expected = forward(Layers(), np.float32([[0.5, 1.0] + [0.0] * 1022]))
    for path in ("/v2/models/infer/infer", "/v2/models/infer/versions/1/infer"):
        async with http.post(url(node, path), data=body(tensor(), id="a")) as response:
            told = await response.json()
        (output,) = told["outputs"]
        assert (told["id"], output["shape"], output["datatype"]) == ("a", [1, 1000], "FP32")
        assert np.array_equal(np.float32(output["data"]), expected[0])
    sent, headers = binary(tensor(**SIZED), struct.pack("<ff", 0.5, 1.0))
    async with http.post(url(node, path), data=sent, headers=headers) as response:
        assert "application/json" in response.headers["Content-Type"]
    wanted = body(tensor(), parameters={"binary_data_output": True})
    async with http.post(url(node, path), data=wanted) as response:
        raw, size = await response.read(), int(response.headers["Inference-Header-Content-Length"])
    assert json.loads(raw[:size])["outputs"][0]["parameters"] == {"binary_data_size": 4000}
    assert raw[size:] == expected.tobytes()
    async with http.get(url(node, "/v2/models/gone/ready")) as response:
        assert response.status == 404

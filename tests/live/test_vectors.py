"""Embeddings, rankings and the old route of the language model keep their contracts."""

from __future__ import annotations

import asyncio

import numpy as np
import openai
import pytest

from tests.support.decoders import write_talker
from tests.support.encoders import tiny_encoder
from tests.support.live import mesh, url, wait_idle

pytestmark = pytest.mark.live

TOPOLOGY = """
[mesh]
name = "vectors"
[models.tiny]
source = "path:FOLDER/encoder"
[models.talker]
source = "path:FOLDER/talker"
[roles.embed]
kind = "embed"
model = "tiny"
nodes = ["n1"]
[roles.rerank]
kind = "rerank"
model = "tiny"
nodes = ["n1"]
index = ""
[roles.talk]
kind = "generate"
model = "talker"
nodes = ["n1"]
weights = "float32"
context_max = 64
tokens_max = 8
"""
DOCUMENTS = ["a dog barks", "a cat purrs", "fish swim"]
BAD = [
    ("/v1/embeddings", {"model": "tiny"}, 400, "input"),
    ("/v1/embeddings", {"model": "gone", "input": "x"}, 404, "model"),
    ("/v1/embeddings", {"model": "talk", "input": "x"}, 404, "model"),
    ("/v1/embeddings", {"model": "tiny", "input": []}, 400, "input"),
    ("/v1/embeddings", {"model": "tiny", "input": ""}, 400, "input"),
    ("/v1/embeddings", {"model": "tiny", "input": ["x", ""]}, 400, "input"),
    ("/v1/embeddings", {"model": "tiny", "input": [1, 2]}, 400, "input"),
    ("/v1/embeddings", {"model": "tiny", "input": ["x"] * 2049}, 400, "input"),
    ("/v1/embeddings", {"model": "tiny", "input": "x", "dimensions": 999}, 400, "dimensions"),
    ("/v1/embeddings", {"model": "tiny", "input": "x", "dimensions": 0}, 400, "dimensions"),
    ("/v1/embeddings", {"model": "tiny", "input": "x", "encoding_format": "hex"}, 400,
     "encoding_format"),
    ("/v1/rerank", {"model": "tiny", "query": "x"}, 400, "documents"),
    ("/v2/rerank", {"model": "tiny", "query": "x", "documents": []}, 400, "documents"),
    ("/rerank", {"model": "tiny", "query": 5, "documents": ["x"]}, 400, "query"),
    ("/rerank", {"model": "gone", "query": "x", "documents": ["x"]}, 404, "model"),
    ("/rerank", {"model": "tiny", "query": "x", "documents": [5]}, 400, "documents"),
    ("/rerank", {"model": "tiny", "query": "x", "documents": ["x"], "top_n": -1}, 400, "top_n"),
]  # fmt: skip


def test_vectors_and_rankings_come_through_any_door(tmp_path):
    tiny_encoder(tmp_path / "encoder")
    write_talker(tmp_path / "talker")

    async def main():
        text = TOPOLOGY.replace("FOLDER", str(tmp_path))
        async with mesh(tmp_path, text, 2) as (nodes, http):
            for node in nodes:
                await _embeddings(node)
                for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
                    await _rerank(http, url(node, path))
                await _process(http, url(node, "/api/model/process"))
            for path, body, status, param in BAD:
                async with http.post(url(nodes[0], path), json=body) as response:
                    error = (await response.json())["error"]
                found = (response.status, error["param"], error["type"])
                assert found == (status, param, "invalid_request_error"), (path, body, error)
            await wait_idle(nodes)

    asyncio.run(main())


async def _embeddings(node):
    async with openai.AsyncOpenAI(base_url=url(node, "/v1"), api_key="none") as client:
        packed = await client.embeddings.create(model="tiny", input=DOCUMENTS)  # base64
        plain = await client.embeddings.create(
            model="embed", input=DOCUMENTS[0], encoding_format="float"
        )
        short = await client.embeddings.create(model="tiny", input=DOCUMENTS[0], dimensions=4)
        many = await client.embeddings.create(model="tiny", input=["a"] * 200)
    assert [one.index for one in packed.data] == [0, 1, 2]
    assert np.allclose(packed.data[0].embedding, plain.data[0].embedding, atol=1e-5)
    head = np.array(plain.data[0].embedding[:4])
    assert np.allclose(short.data[0].embedding, head / np.linalg.norm(head), atol=1e-5)
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 3
    assert [one.index for one in many.data] == list(range(200))


async def _rerank(http, address):
    asked = {"model": "tiny", "query": "a dog", "documents": [*DOCUMENTS[:2], {"text": "fish"}]}
    async with http.post(address, json=asked) as response:
        whole = (await response.json())["results"]
    assert response.status == 200
    assert sorted(one["index"] for one in whole) == [0, 1, 2]
    scores = [one["relevance_score"] for one in whole]
    assert scores == sorted(scores, reverse=True)
    asked |= {"top_n": 2, "return_documents": True}
    async with http.post(address, json=asked) as response:
        best = (await response.json())["results"]
    assert [one["index"] for one in best] == [one["index"] for one in whole[:2]]
    texts = [*DOCUMENTS[:2], "fish"]
    assert all(one["document"]["text"] == texts[one["index"]] for one in best)


async def _process(http, address):
    async with http.post(address, json={"text": "hello", "metadata": {}}) as response:
        body = await response.json()
    assert (response.status, set(body)) == (200, {"text", "processingTime", "nodeCount"})
    assert body["nodeCount"] == 1
    assert body["processingTime"] == round(body["processingTime"], 2) > 0
    for wrong in (b"{bad", b"[]", b"{}", b'{"text": 5}', b'{"text": ""}', b'{"text": "x"',
                  b'{"text": "x", "metadata": 5}'):  # fmt: skip
        async with http.post(address, data=wrong) as response:
            assert (response.status, set(await response.json())) == (422, {"detail"}), wrong
    late = {"X-Deadline-Ms": "1"}
    async with http.post(address, json={"text": "hello"}, headers=late) as response:
        assert (response.status, set(await response.json())) == (504, {"detail"})


def test_process_without_a_model_is_503(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            async with http.post(url(nodes[0], "/api/model/process"), json={"text": "x"}) as got:
                body = await got.json()
            assert (got.status, set(body)) == (503, {"detail"})

    asyncio.run(main())

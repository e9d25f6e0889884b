"""A conversation stays with the replica that has read it, and goes on at another when that dies."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.decoders import write_talker
from tests.support.processes import processes, wait_ready, wait_stats

pytestmark = [pytest.mark.live, pytest.mark.slow]

TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"
TOPOLOGY = """
[mesh]
name = "replicas"
[models.tiny]
source = "path:FOLDER"
[roles.talk]
kind = "generate"
model = "tiny"
nodes = ["n1", "n2"]
weights = "float32"
context_max = 1024
chunk = 32
"""
SYSTEM = {"role": "system", "content": "be kind, be brief, and say what is true. " * 5}


async def ask(http, door, messages, tokens=20, heard=None):
    """Stream an answer; `heard` is called when it has begun."""
    body = {
        "model": "talk",
        "messages": messages,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    said = ""
    async with http.post(door.url("/v1/chat/completions"), json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                said += chunk["choices"][0]["delta"].get("content") or ""
                if heard and said:
                    heard()
                    heard = None
    return said


async def talk(http, door, turns):
    """Lead a conversation; return its messages."""
    messages = [SYSTEM]
    for at in range(turns):
        messages.append({"role": "user", "content": f"tell me more about number {at}"})
        said = await ask(http, door, messages)
        messages.append({"role": "assistant", "content": said})
    return messages


def engine_of(stats):
    return stats["roles"]["talk"]["engine"]


def test_a_conversation_outlives_the_replica_that_had_it(tmp_path):
    path = write_talker(tmp_path / "tiny", TEMPLATE, max_position_embeddings=1024)

    async def main():
        text = TOPOLOGY.replace("FOLDER", str(path))
        async with processes(tmp_path, text) as (nodes, http):
            for node in nodes:
                await node.start()
            await wait_ready(http, nodes)
            door, *replicas = nodes
            messages = await talk(http, door, 3)
            engines = [engine_of(await wait_stats(http, each, bool)) for each in replicas]
            owner = replicas[engines[1]["steps"] > engines[0]["steps"]]
            other = replicas[owner is replicas[0]]
            had, spare = sorted(engines, key=lambda each: -each["steps"])
            assert spare["steps"] == 0
            assert had["prefix_hits"] == 2
            assert had["prefix_tokens"] > 2 * len(SYSTEM["content"])

            # In the middle of the next answer its node dies: the other one goes on.
            messages.append({"role": "user", "content": "and then?"})
            said = await ask(http, door, messages, 300, heard=owner.kill)
            assert len(said) > 100
            assert await ask(http, door, messages, 300) == said
            assert engine_of(await wait_stats(http, other, bool))["prefix_hits"] == 1
            for at in (2, 4, 6):
                assert await ask(http, door, messages[:at]) == messages[at]["content"]

    asyncio.run(main())

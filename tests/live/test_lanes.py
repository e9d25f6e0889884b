"""Nodes whose language model has a process of its own lose no answer when that is killed."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from mesh.client import Client
from tests.support.decoders import write_talker
from tests.support.live import mesh, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

TOPOLOGY = """
[mesh]
name = "apart"
[models.tiny]
source = "path:FOLDER"
[roles.talk]
kind = "generate"
model = "tiny"
nodes = ["n0", "n1"]
lane = "process"
weights = "float32"
context_max = 256
sequences_max = 4
[pipelines.talk]
input = ["prompt", "tokens_max", "ignores_ends"]
output = ["answer"]
[[pipelines.talk.stages]]
name = "talk"
role = "talk"
take = { prompt = "prompt", tokens_max = "tokens_max", ignores_ends = "ignores_ends" }
give = { answer = "answer" }
"""
WISH = {"prompt": "hello", "tokens_max": 200, "ignores_ends": True}


def test_an_answer_goes_on_elsewhere_when_its_process_is_killed(tmp_path):
    """Not a token is lost or said twice, and the node offers the role again."""
    topology = TOPOLOGY.replace("FOLDER", str(write_talker(tmp_path / "model")))

    async def scenario():
        async with mesh(tmp_path, topology, 2) as (nodes, _):
            async with Client(f"http://{nodes[0].http_address}", deadline_s=60) as client:
                whole = (await client.call("talk", **WISH))["answer"]
                for times in (1, 2):
                    await wait_until(lambda: all(process_of(node) for node in nodes))
                    assert (await stream_with_a_kill(client, nodes)).strip() == whole.strip()
                    await wait_until(lambda: restarts(nodes) == times)  # noqa: B023 - waited for
                    await wait_until(lambda: all(node.local.ready == ("talk",) for node in nodes))
            return sum(node.router.statistics()["resumed"] for node in nodes)

    assert asyncio.run(scenario()) == 2


async def stream_with_a_kill(client, nodes):
    """Return the text of an answer whose process was killed in the middle."""
    said, busy = "", []
    async for event in client.stream("talk", **WISH):
        if event.name == "token":
            said += event.data["text"]
        if len(said) > 20 and not busy:
            busy = [n for n in nodes if n.local.statistics()["talk"]["running"]]
            os.kill(process_of(busy[0]), signal.SIGKILL)
    return said


def restarts(nodes):
    return sum(node.local.statistics()["talk"]["process"]["restarts"] for node in nodes)


def process_of(node):
    return node.local.statistics()["talk"]["process"].get("pid")

"""Nodes that share one tiny language model, questions to it, and what happens to them."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from mesh.client import Client
from tests.support.decoders import write_talker
from tests.support.processes import Process

TOPOLOGY = """
[mesh]
name = "split"
[models.tiny]
source = "path:{path}"
[roles.generate]
kind = "generate"
model = "tiny"
nodes = {nodes}
{layers}
weights = "float32"
context_max = 1024
sequences_max = 8
chunk = 32
[pipelines.say]
input = ["prompt", "tokens_max", "ignores_ends"]
output = ["answer"]
[[pipelines.say.stages]]
name = "generate"
role = "generate"
take = {{ prompt = "prompt", tokens_max = "tokens_max", ignores_ends = "ignores_ends" }}
give = {{ answer = "answer" }}
"""
DEADLINE_S = 90.0


def write_model(folder: Path, layers: int = 6) -> Path:
    """Write a tiny talker that never ends by itself early, with so many layers."""
    return write_talker(folder, num_hidden_layers=layers, max_position_embeddings=1024)


def topology(path: Path, nodes: list[str], layers: object = "auto", context: int = 1024) -> str:
    """Return a topology; `layers` None leaves the model whole."""
    split = "" if layers is None else f"layers = {json.dumps(layers)}"
    return TOPOLOGY.format(path=path, nodes=json.dumps(nodes), layers=split)


@dataclass(frozen=True)
class Question:
    """A prompt, and how much is to be said."""

    prompt: str
    tokens: int


def questions(count: int = 8, seed: int = 0, tokens: int = 300) -> list[Question]:
    """Return questions of very different lengths."""
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        Question(
            "".join(draw.choice(letters) for _ in range(draw.choice([5, 40, 150, 400]))),
            draw.randint(tokens // 2, tokens),
        )
        for _ in range(count)
    ]


@dataclass
class Gap:
    """The longest time between two pieces of one answer, as its reader saw it."""

    longest_s: float = 0.0


async def answers(url: str, asked: list[Question], gap: Gap | None = None) -> list[str]:
    """Stream every answer at once; what was streamed must be what is said to be the whole."""
    return await asyncio.gather(*(_answer(url, each, gap or Gap()) for each in asked))


async def _answer(url: str, asked: Question, gap: Gap) -> str:
    said, whole = "", ""
    last_s = time.monotonic()
    async with Client(url, deadline_s=DEADLINE_S) as client:
        wish = {"prompt": asked.prompt, "tokens_max": asked.tokens, "ignores_ends": True}
        async for event in client.stream("say", **wish):
            now_s = time.monotonic()
            gap.longest_s, last_s = max(gap.longest_s, now_s - last_s), now_s
            if event.name == "token":
                said += event.data["text"]
            elif event.name == "field":
                whole = event.data["value"]
    assert said == whole
    return said


async def wait_chain(http: aiohttp.ClientSession, nodes: list[Process], parts: int) -> dict:
    """Wait until some node leads a chain of that many parts; return the role's statistics."""
    async with asyncio.timeout(60):
        while True:
            for node in nodes:
                stats = await _stats(http, node)
                role = stats.get("roles", {}).get("generate", {})
                chain = role.get("engine", {}).get("chain", {})
                is_open = role.get("engine", {}).get("epoch") is not None
                if is_open and len(chain.get("nodes", ())) == parts:
                    return role
            await asyncio.sleep(0.05)


async def _stats(http: aiohttp.ClientSession, node: Process) -> dict:
    try:
        async with http.get(
            node.url("/stats"), timeout=aiohttp.ClientTimeout(total=1.0)
        ) as response:
            return await response.json() if response.status == 200 else {}
    except (aiohttp.ClientError, TimeoutError):
        return {}


async def hurt(node: Process, how: str) -> None:
    """Kill a node, or stop it as a debugger does."""
    node.kill(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    if how == "kill":
        await node.wait()


async def heal(node: Process, how: str) -> None:
    """Start it again, or let it go on."""
    if how == "kill":
        await node.start()
    else:
        node.kill(signal.SIGCONT)

"""Two chains of one model share its conversations, and each goes on with what the other began."""

from __future__ import annotations

import asyncio

import pytest

from tests.live.test_replicas import TEMPLATE, ask
from tests.support.decoders import write_talker
from tests.support.processes import processes, wait_stats

pytestmark = [pytest.mark.live, pytest.mark.slow]

TOPOLOGY = """
[mesh]
name = "chains"
[models.tiny]
source = "path:FOLDER"
[roles.talk]
kind = "generate"
model = "tiny"
nodes = ["n1", "n2", "n3", "n4"]
replicas = 2
layers = "auto"
weights = "float32"
context_max = 1024
chunk = 32
"""
TOPICS = ("rivers", "metals", "winds", "birds", "numbers", "bread")


def engine_of(stats):
    return stats.get("roles", {}).get("talk", {}).get("engine", {})


def parts_of(stats):
    """Return how many parts the chain has that a node leads; 0 where it leads none."""
    engine = engine_of(stats)
    return len(engine["chain"]["nodes"]) if engine.get("epoch") is not None else 0


def begun(topic):
    """Return the beginning of a conversation, unlike any other's from its first word."""
    system = f"{topic} are what you know of. be brief, and say what is true. " * 3
    question = {"role": "user", "content": f"what of {topic}?"}
    return [{"role": "system", "content": system}, question]


async def go_on(http, door, messages):
    """Let the model answer twice, with a question between."""
    for question in ("and then?", "and why?"):
        said = await ask(http, door, messages)
        messages += [
            {"role": "assistant", "content": said},
            {"role": "user", "content": question},
        ]
    return messages


async def figures(http, heads):
    return [engine_of(await wait_stats(http, head, parts_of)) for head in heads]


async def wait_heads(http, door, groups, parts):
    """Wait until one node of each group leads a chain of so many parts; return these nodes."""
    names = [{node.name for node in group} for group in groups]

    def settled(stats):
        placed = set(stats["roles"]["talk"]["placement"])
        return len(placed) == len(groups) and all(placed & group for group in names)

    placed = (await wait_stats(http, door, settled))["roles"]["talk"]["placement"]
    heads = [next(node for node in group if node.name in placed) for group in groups]
    for head, count in zip(heads, parts, strict=True):
        await wait_stats(http, head, lambda stats, count=count: parts_of(stats) == count)
    return heads


def test_conversations_share_two_chains_and_outlive_the_head_of_one(tmp_path):
    path = write_talker(
        tmp_path / "tiny", TEMPLATE, num_hidden_layers=4, max_position_embeddings=1024
    )

    async def main():
        text = TOPOLOGY.replace("FOLDER", str(path))
        async with processes(tmp_path, text, 5) as (nodes, http):
            for node in nodes:
                await node.start()
            door, *others = nodes
            for node in nodes:
                await wait_stats(http, node, bool)
            groups = [others[:2], others[2:]]
            heads = await wait_heads(http, door, groups, [2, 2])

            # Each conversation keeps to one chain, where its second turn is known; both have some.
            talks = {topic: await go_on(http, door, begun(topic)) for topic in TOPICS}
            found = await figures(http, heads)
            assert sum(each["prefix_hits"] for each in found) == len(TOPICS)
            assert min(each["prefix_hits"] for each in found) > 0

            # What many ask at once is more than one chain's share: the other helps.
            before = [each["ended"]["length"] for each in found]
            hot = [ask(http, door, begun("fashions"), 100) for _ in range(8)]
            assert len(set(await asyncio.gather(*hot))) == 1
            after = [each["ended"]["length"] for each in await figures(http, heads)]
            assert min(b - a for a, b in zip(before, after, strict=True)) >= 2

            # The head dies in mid-answer: the other chain goes on from that token.
            steps = [each["steps"] for each in await figures(http, heads)]
            messages = talks["rivers"]
            expected = await ask(http, door, messages, 300)
            grown = [each["steps"] for each in await figures(http, heads)]
            at = int(grown[1] > steps[1])
            assert await ask(http, door, messages, 300, heard=heads[at].kill) == expected
            # What is left of its nodes leads anew, and says the same.
            groups[at].remove(heads[at])
            await wait_heads(http, door, groups, [len(group) for group in groups])
            assert await ask(http, door, messages, 300) == expected
            for topic in TOPICS:
                said = await ask(http, door, talks[topic][:2])
                assert said == talks[topic][2]["content"]

    asyncio.run(main())

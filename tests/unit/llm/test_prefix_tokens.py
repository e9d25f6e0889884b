"""What was computed before changes no token: alone, beside others, after loss, in parts."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest
import torch

from mesh.llm.ask import Ask
from mesh.llm.engine import Engine
from mesh.llm.prefix import Reuse
from mesh.llm.runner import Whole
from mesh.models.checkpoint import open_checkpoint
from mesh.models.ends import Ends
from mesh.models.sampling import Sampling
from tests.support.decoders import write_decoder
from tests.unit.llm.test_relay import CUTS, KINDS, LAYERS, Ring, part, scheduler


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp(request.param), KINDS[request.param])


def whole(folder, reuse, **settings):
    checkpoint = open_checkpoint(folder)
    runner = Whole(part(checkpoint, 0, LAYERS), Ends(checkpoint, form="float32"))
    return Engine(runner, scheduler(reuse=reuse, **settings), str)


async def read(engine, ask):
    said = []
    async with aclosing(engine.submit(ask)) as stream:
        async for each in stream:
            said.extend(choice.token for choice in each.choices)
    return said


def ask(prompt, tokens=8, seed=0):
    sampling = Sampling(temperature=0.8 * (seed % 2), seed=seed)
    return Ask(prompt=tuple(prompt), sampling=sampling, tokens_max=tokens)


async def talk(engine, seed, turns=3):
    """Lead a conversation of random turns after one of three shared beginnings."""
    draw = random.Random(seed)
    said, heard = list(range(3, 3 + 40 * (seed % 3))), []
    for _ in range(turns):
        said += [draw.randrange(3, 96) for _ in range(draw.randrange(5, 30))]
        answer = await read(engine, ask(said, seed=seed))
        heard.append(answer)
        said += answer
    return heard


async def talk_all(engine, count=8):
    """Lead several conversations at once, then some of them again."""
    first = await asyncio.gather(*(talk(engine, seed) for seed in range(count)))
    return [*first, *[await talk(engine, seed) for seed in range(3)]]


@pytest.fixture(scope="module")
def expected(folder):
    """What is said where nothing is used again."""
    engine = whole(folder, Reuse.NONE)
    found = asyncio.run(talk_all(engine))
    assert engine.statistics()["prefix_hits"] == 0
    engine.close()
    return found


@pytest.mark.parametrize("reuse", [Reuse.ALL, Reuse.EXACT])
def test_conversations_say_the_same_at_once_and_again(folder, expected, reuse):
    engine = whole(folder, reuse)
    assert expected == asyncio.run(talk_all(engine))
    figures = engine.statistics()
    assert figures["prefix_hits"] > 10
    assert figures["kv_blocks_used"] == 0
    engine.close()


def test_they_say_the_same_where_memory_is_short(folder):
    """What is warm goes first, then the newest give way."""
    asks = [ask([*range(3, 73), 3 + at], 100, at) for at in range(6)]
    plenty, short = whole(folder, Reuse.NONE), whole(folder, Reuse.ALL, budget=5)

    async def gathered(engine):
        return await asyncio.gather(*(read(engine, each) for each in asks))

    assert asyncio.run(gathered(plenty)) == asyncio.run(gathered(short))
    figures = short.statistics()
    assert figures["preemptions"] > 0
    assert figures["prefix_hits"] > 0
    assert figures["kv_blocks_used"] == 0
    plenty.close()
    short.close()


def test_several_answers_to_one_prompt_are_as_if_each_was_alone(folder):
    """One reads it, the others copy; each has its own seed."""
    prompt = [3 + at % 90 for at in range(150)]
    apart, together = whole(folder, Reuse.NONE), whole(folder, Reuse.ALL)

    async def gathered(engine):
        return await asyncio.gather(*(read(engine, ask(prompt, 12, at)) for at in range(1, 5)))

    alone = [asyncio.run(read(apart, ask(prompt, 12, at))) for at in range(1, 5)]
    assert alone == asyncio.run(gathered(together))
    assert together.statistics()["prefix_copies"] == 3, "as many as find a slot beside it"
    apart.close()
    together.close()


@pytest.mark.parametrize("count", CUTS)
def test_in_parts_they_say_the_same(folder, expected, count):
    """Every node copies and takes over in the order of the steps."""
    ring = Ring(folder, count, reuse=Reuse.ALL)
    assert expected == asyncio.run(talk_all(ring.relay))
    figures = ring.relay.statistics()
    assert figures["prefix_copies"] > 0
    assert figures["prefix_hits"] > figures["prefix_copies"]
    assert figures["kv_blocks_used"] == 0
    ring.close()


def test_what_was_warm_is_forgotten_with_the_way(folder, expected):
    """The nodes of a new way have none of it."""
    ring = Ring(folder, 3, reuse=Reuse.ALL)
    assert expected[0] == asyncio.run(talk(ring.relay, 0))
    ring.lose()
    ring.open(2)
    hits = ring.relay.statistics()["prefix_hits"]
    assert expected[0][:1] == asyncio.run(talk(ring.relay, 0, turns=1))
    assert ring.relay.statistics()["prefix_hits"] == hits
    assert expected == asyncio.run(talk_all(ring.relay))
    ring.close()

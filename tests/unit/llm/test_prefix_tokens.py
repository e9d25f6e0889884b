"""What was computed before changes no token: alone, beside others, after loss, in parts."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest
import torch

from mesh.llm.ask import Ask
from mesh.llm.blocks import Ledger
from mesh.llm.engine import Engine
from mesh.llm.prefix import Reuse
from mesh.llm.runner import Whole
from mesh.llm.scheduler import Scheduler
from mesh.models.checkpoint import open_checkpoint
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.sampling import Sampling
from tests.support.decoders import GPT2, LLAMA, write_decoder

SLOTS, CAP, LAYERS, CHUNK = 6, 256, 4, 32
KINDS = {
    "llama": LLAMA | {"num_hidden_layers": LAYERS},
    "gpt2": GPT2 | {"n_layer": LAYERS},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp(request.param), KINDS[request.param])


def scheduler(reuse, budget=SLOTS * 4):
    ledger = Ledger(SLOTS, CAP, budget, 0 if reuse is Reuse.NONE else 3)
    return Scheduler(ledger, chunk=CHUNK, rows_max=8, reuse=reuse)


def whole(folder, reuse, **settings):
    checkpoint = open_checkpoint(folder)
    stage = Stage(checkpoint, 0, LAYERS, form="float32", slots=SLOTS, cap=CAP)
    ends = Ends(checkpoint, form="float32")
    return Engine(Whole(stage, ends), scheduler(reuse, **settings), str)


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
        return await asyncio.gather(*(read(engine, ask(prompt, 12, at)) for at in range(1, 6)))

    alone = [asyncio.run(read(apart, ask(prompt, 12, at))) for at in range(1, 6)]
    assert alone == asyncio.run(gathered(together))
    assert together.statistics()["prefix_copies"] == 4
    apart.close()
    together.close()

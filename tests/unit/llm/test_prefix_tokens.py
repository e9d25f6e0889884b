"""What was computed before changes no token: alone, beside others, after loss, in parts."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from contextlib import aclosing

import pytest
import torch

from mesh.llm.ask import Ask
from mesh.llm.engine import Engine
from mesh.llm.prefix import Reuse
from mesh.llm.runner import Whole
from mesh.models.checkpoint import open_checkpoint
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.sampling import Sampling
from tests.support.decoders import write_decoder
from tests.unit.llm.test_relay import CAP, CUTS, KINDS, LAYERS, SLOTS, Ring, part, scheduler


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


async def read(engine, ask, heard=lambda: None):
    said = []
    async with aclosing(engine.submit(ask)) as stream:
        async for each in stream:
            said.extend(choice.token for choice in each.choices)
            heard()
    return said


def ask(prompt, tokens=8, seed=0):
    sampling = Sampling(temperature=0.8 * (seed % 2), seed=seed)
    return Ask(prompt=tuple(prompt), sampling=sampling, tokens_max=tokens)


async def talk(engine, seed, turns=3, heard=lambda: None):
    """Lead a conversation of random turns after one of three shared beginnings."""
    draw = random.Random(seed)
    said, told = list(range(3, 3 + 40 * (seed % 3))), []
    for _ in range(turns):
        said += [draw.randrange(3, 96) for _ in range(draw.randrange(5, 30))]
        answer = await read(engine, ask(said, seed=seed), heard)
        told.append(answer)
        said += answer
    return told


async def talk_all(engine, count=8, heard=lambda: None):
    """Lead several conversations at once, then some of them again."""
    first = await asyncio.gather(*(talk(engine, seed, heard=heard) for seed in range(count)))
    return [*first, *[await talk(engine, seed, heard=heard) for seed in range(3)]]


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
        together = threading.Event()
        engine.post(together.wait)  # nobody is done before the last has come
        asyncio.get_running_loop().call_later(0, together.set)
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


def test_in_parts_they_say_the_same_where_memory_is_short(folder):
    """Warm slots make room, answers give way and begin again, on every node alike."""
    asks = [ask([*range(3, 73), 3 + at], 100, at) for at in range(6)]
    plenty, short = whole(folder, Reuse.NONE), Ring(folder, 3, reuse=Reuse.ALL, budget=5)

    async def gathered(engine):
        together = threading.Event()
        engine.post(together.wait)  # nobody is done before the last has come
        asyncio.get_running_loop().call_later(0, together.set)
        return await asyncio.gather(*(read(engine, each) for each in asks))

    assert asyncio.run(gathered(plenty)) == asyncio.run(gathered(short.relay))
    figures = short.relay.statistics()
    assert min(figures["preemptions"], figures["prefix_hits"], figures["prefix_evictions"]) > 0
    assert figures["kv_blocks_used"] == 0
    plenty.close()
    short.close()


@pytest.mark.parametrize("seed", range(2))
def test_conversations_go_on_when_the_way_is_lost_again_and_again(folder, expected, seed):
    """At random moments, to another number of parts; what was known is read anew, and reused."""
    draw, ring = random.Random(seed), Ring(folder, 3, reuse=Reuse.ALL)
    moments, heard = set(draw.sample(range(150), 4)), itertools.count()

    def lose():
        if next(heard) in moments:
            ring.lose()
            ring.open(draw.choice(list(CUTS)))

    assert expected == asyncio.run(talk_all(ring.relay, heard=lose))
    figures = ring.relay.statistics()
    assert figures["recoveries"] == 4
    assert figures["prefix_hits"] > 0
    assert figures["kv_blocks_used"] == 0
    ring.close()


def test_a_prefix_is_known_to_the_model_that_read_it_only(tmp_path):
    """Other weights, or the same in another form, share nothing, though all are asked alike."""
    folders = [write_decoder(tmp_path / f"{seed}", KINDS["llama"], seed) for seed in range(2)]
    models = [(folders[0], "float32"), (folders[0], "int8"), (folders[1], "float32")]

    def opened(reuse):
        engines = []
        for path, form in models:
            checkpoint = open_checkpoint(path)
            stage = Stage(checkpoint, 0, LAYERS, form=form, slots=SLOTS, cap=CAP)
            runner = Whole(stage, Ends(checkpoint, form=form))
            engines.append(Engine(runner, scheduler(reuse=reuse), str))
        return engines

    async def asked(engines):
        return [[await read(each, ask(range(3, 80), 12)) for each in engines] for _ in range(3)]

    cold, warm = opened(Reuse.NONE), opened(Reuse.EXACT)
    expected = asyncio.run(asked(cold))
    assert len({tuple(each) for each in expected[0]}) == 3, "each says something else"
    assert expected == asyncio.run(asked(warm))
    assert [each.statistics()["prefix_hits"] for each in warm] == [2, 2, 2]
    for engine in (*cold, *warm):
        engine.close()


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

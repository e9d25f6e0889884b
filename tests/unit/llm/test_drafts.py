"""Drafts change no token, no odds and no ending: alone, beside others, in parts."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
import torch

from mesh.llm.ask import Ask
from mesh.llm.engine import Engine
from mesh.llm.lookup import Lookup
from mesh.llm.runner import Whole
from mesh.models.checkpoint import open_checkpoint
from mesh.models.ends import Ends
from mesh.models.sampling import Sampling
from tests.support.decoders import write_decoder
from tests.unit.llm.test_relay import KINDS, LAYERS, Ring, part, scheduler

PROMPT = tuple(list(range(20, 40)) * 2)
SAMPLINGS = {
    "greedy": Sampling(),
    "odds": Sampling(logprobs=2),
    "drawn": Sampling(temperature=0.3, seed=4, top_k=5),
    "punished": Sampling(repetition=1.05, presence=0.1, frequency=0.05),
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


def whole(folder, drafts_max):
    checkpoint = open_checkpoint(folder)
    runner = Whole(part(checkpoint, 0, LAYERS), Ends(checkpoint, form="float32"))
    return Engine(runner, scheduler(drafts_max=drafts_max), str)


async def read(engine, ask):
    choices, text, finish = [], "", None
    async with aclosing(engine.submit(ask)) as stream:
        async for said in stream:
            choices += said.choices
            text += said.text
            finish = said.finish or finish
    return choices, text, finish.reason, finish.answer_tokens


async def answers(engine, asks):
    try:
        return await asyncio.gather(*(read(engine, ask) for ask in asks))
    finally:
        engine.close()


@pytest.fixture
def foreseen(monkeypatch):
    """Let drafts be the answers expected, but for every seventh token."""
    known = {}

    def guess(lookup, most):
        prompt = lookup._sequence.prompt
        start = len(lookup._tokens) - len(prompt)
        answer = known[prompt]
        stop = min(start + most, len(answer))
        return tuple(answer[at] if at % 7 else 1 for at in range(start, stop))

    monkeypatch.setattr(Lookup, "guess", guess)

    def expect(asks, answers):
        for ask, (choices, *_) in zip(asks, answers, strict=True):
            known[ask.prompt] = [choice.token for choice in choices]

    return expect


def same(found, expected):
    """Compare answers; log probabilities within what rounding by numbers of rows may do."""
    for (choices, *rest), (others, *wanted) in zip(found, expected, strict=True):
        assert rest == wanted
        assert [each.token for each in choices] == [each.token for each in others]
        for one, other in zip(choices, others, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [i for i, _ in one.alternatives] == [i for i, _ in other.alternatives]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_whatever_is_asked_the_answer_is_the_same(folder, name, foreseen):
    """Alone: tokens, odds and text are those without drafts, in a third of the steps."""
    ask = Ask(PROMPT, tokens_max=90, sampling=SAMPLINGS[name])
    plain = asyncio.run(answers(whole(folder, 0), [ask]))
    foreseen([ask], plain)
    engine = whole(folder, 7)
    same(asyncio.run(answers(engine, [ask])), plain)
    counts = engine.statistics()
    assert counts["drafts"] > counts["drafts_right"] > 45
    assert counts["steps"] < 45
    assert counts["answer_tokens"] == 90


def test_beside_others_and_at_their_ends_it_is_the_same(folder, foreseen):
    """Ends, stop strings and least lengths hold among drafts as without."""
    asks = [Ask(PROMPT, tokens_max=60), Ask(PROMPT[1:], tokens_max=60)]
    first, second = (
        [c.token for c in each[0]] for each in asyncio.run(answers(whole(folder, 0), asks))
    )
    asks = [
        Ask(PROMPT, tokens_max=60, stops=(str(first[30:31])[1:],)),
        Ask(PROMPT[1:], tokens_max=60, ends=frozenset(second[20:30]), tokens_min=25),
        Ask(PROMPT[:7], tokens_max=33, sampling=SAMPLINGS["drawn"]),
    ]
    expected = asyncio.run(answers(whole(folder, 0), asks))
    foreseen(asks, expected)
    engine = whole(folder, 7)
    same(asyncio.run(answers(engine, asks)), expected)
    assert engine.statistics()["drafts_right"] > 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_in_parts_it_is_the_same(folder, count, foreseen):
    """The rows of drafts go round as any others do."""
    asks = [
        Ask(PROMPT, tokens_max=60),
        Ask(PROMPT[::-1], tokens_max=40, sampling=SAMPLINGS["drawn"]),
    ]
    expected = asyncio.run(answers(whole(folder, 0), asks))
    foreseen(asks, expected)
    ring = Ring(folder, count, drafts_max=7)
    same(asyncio.run(answers(ring.relay, asks)), expected)
    assert ring.relay.statistics()["drafts_right"] > 10
    ring.close()

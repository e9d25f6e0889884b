"""Answers come out of the engine's thread whole, in order, and can be left at any time."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing, contextmanager

import pytest

from mesh.errors import Cancelled, DeadlineExceeded, Overloaded, RoleError, TooLarge
from mesh.llm.blocks import Ledger
from mesh.llm.engine import Ask, Engine
from mesh.llm.scheduler import Scheduler
from mesh.llm.sequence import Reason
from mesh.models.sampling import Choice

END = 0


class Alphabet:
    """Says the letter after the last one; may be held, and may fail."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.permits = None  # a semaphore, where a test counts steps
        self.fails = False
        self.steps = []

    def run(self, step, wishes):
        self.gate.wait(timeout=10)
        if self.permits:
            self.permits.acquire(timeout=10)
        if self.fails:
            raise ValueError("broken arithmetic")
        self.steps.append(step)
        asked = {row.id: row.token for row in step.rows if row.is_last}
        if step.chunk and step.chunk.is_last:
            asked[step.chunk.id] = step.chunk.tokens[-1]
        return {id_: [Choice(token + 1)] for id_, token in asked.items()}

    def give_back(self, slot):
        pass


def decode(tokens):
    return "".join(chr(token) for token in tokens)


@contextmanager
def engine(runner, slots=4, **settings):
    reports = []
    ledger = Ledger(slots, 256, slots * 4)
    opened = Engine(runner, Scheduler(ledger, **settings), decode, report=reports.append)
    opened.reports = reports
    try:
        yield opened
    finally:
        runner.gate.set()
        opened.close()


def ask(start="a", **wishes):
    return Ask(prompt=tuple(map(ord, start)), **wishes)


async def read(opened, wish):
    text, finish, tokens = "", None, 0
    async with aclosing(opened.submit(wish)) as said:
        async for part in said:
            text += part.text
            tokens += len(part.choices)
            finish = part.finish or finish
    assert finish is not None
    assert tokens == finish.answer_tokens
    return text, finish


def test_an_answer_comes_piece_by_piece():
    with engine(Alphabet()) as opened:
        text, finish = asyncio.run(read(opened, ask("a", tokens_max=5)))
    assert text == "bcdef"
    assert finish.reason is Reason.LENGTH
    assert (finish.prompt_tokens, finish.answer_tokens, finish.batch_size) == (1, 5, 1)


def test_many_at_once_share_steps_and_say_what_each_says_alone():
    runner = Alphabet()

    async def many():
        return await asyncio.gather(
            *(read(opened, ask(chr(97 + i), tokens_max=9)) for i in range(4))
        )

    with engine(runner) as opened:
        answers = asyncio.run(many())
    assert [text for text, _ in answers] == ["bcdefghij", "cdefghijk", "defghijkl", "efghijklm"]
    assert max(len(step.rows) for step in runner.steps) > 1
    assert opened.statistics()["rows_per_step_max"] > 1


def test_a_stop_string_ends_an_answer_and_is_not_part_of_it():
    with engine(Alphabet()) as opened:
        text, finish = asyncio.run(read(opened, ask("a", stops=("ef",))))
    assert (text, finish.reason) == ("bcd", Reason.STOP)


def test_an_end_token_has_no_text():
    with engine(Alphabet()) as opened:
        text, finish = asyncio.run(read(opened, ask("a", ends=frozenset({ord("d")}))))
    assert (text, finish.reason, finish.answer_tokens) == ("bc", Reason.STOP, 3)


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        (ask("a", tokens_max=1000), TooLarge),
        (ask("a", deadline_s=time.monotonic() - 1), DeadlineExceeded),
    ],
)
def test_what_cannot_be_answered_is_an_error(wish, error):
    with engine(Alphabet()) as opened, pytest.raises(error):
        asyncio.run(read(opened, wish))


def test_a_full_queue_refuses():
    runner = Alphabet()

    async def crowd():
        runner.gate.clear()
        tasks = [asyncio.create_task(read(opened, ask("a", tokens_max=3))) for _ in range(4)]
        results = asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        runner.gate.set()
        return await results

    with engine(runner, slots=1, queue_max=1) as opened:
        results = asyncio.run(crowd())
    assert any(isinstance(result, Overloaded) for result in results)
    assert any(not isinstance(result, Exception) for result in results)


def test_a_step_that_fails_fails_its_answers_and_no_others():
    runner = Alphabet()
    runner.fails = True
    with engine(runner) as opened:
        with pytest.raises(RoleError):
            asyncio.run(read(opened, ask("a")))
        runner.fails = False
        text, _ = asyncio.run(read(opened, ask("a", tokens_max=2)))
        assert [str(error) for error in opened.reports] == ["broken arithmetic"]
        assert opened.statistics()["kv_blocks_used"] == 0
    assert text == "bc"


def test_leaving_early_frees_the_slot():
    """With one slot, the next answer can only come once the first one's is free."""
    runner = Alphabet()
    runner.permits = threading.Semaphore(1)

    async def leave():
        stream = opened.submit(ask("a", tokens_max=200))
        async with aclosing(stream):
            async for _ in stream:
                break
        runner.permits.release(5)
        return await read(opened, ask("x", tokens_max=1))

    with engine(runner, slots=1) as opened:
        text, _ = asyncio.run(leave())
        assert text == "y"
        steps = [step for step in runner.steps if 1 in step.ids()]
        assert len(steps) <= 2, "its prompt, and the one under way when it left"
        assert opened.statistics()["ended"] == {"cancelled": 1, "length": 1}


def test_closing_the_engine_ends_who_is_still_there():
    runner = Alphabet()

    async def stay():
        runner.gate.clear()
        reading = asyncio.create_task(read(opened, ask("a", tokens_max=200)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(runner.gate.set)
        await asyncio.to_thread(opened.close)
        with pytest.raises(Cancelled):
            await reading

    with engine(runner) as opened:
        asyncio.run(stay())


def test_what_preparing_raises_is_raised_where_the_engine_is_made():
    def fail():
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        Engine(Alphabet(), Scheduler(Ledger(1, 64, 1)), decode, prepare=fail)

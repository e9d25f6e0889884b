"""Items come back to their callers: each once, its own, and none fails for another."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import DeadlineExceeded, Draining, MeshError, Overloaded, RoleError, Unprocessable
from mesh.flow.batcher import Batcher
from mesh.flow.deadlines import Deadlines
from mesh.policy.batch import BatchFormer
from mesh.policy.request import Priority
from mesh.roles.base import Context, Role
from tests.support.flow import FakeLane, request
from tests.support.virtual_loop import run_virtual


class Double(Role):
    """Doubles a number; strange on demand."""

    def run(self, batch):
        if any(item["n"] == "raise" for item in batch):
            raise ValueError("bad number")
        return [self._one(item["n"]) for item in batch]

    def _one(self, n):
        if n == "return":
            return KeyError("no such number")
        return Unprocessable("no") if n == "mesh" else "text" if n == "text" else {"n": 2 * n}


class Short(Double):
    """Loses an answer."""

    def run(self, batch):
        return super().run(batch)[1:]


class Once(Double):
    """May run nothing twice."""

    idempotent = False

    def __init__(self, context):
        super().__init__(context)
        self.seen = []

    def run(self, batch):
        self.seen += [item["n"] for item in batch]
        return super().run(batch)


class Heavy(Double):
    """Costs what its number says."""

    def cost(self, item):
        return item["n"]


class Bench:
    """One batcher on a fake lane."""

    def __init__(self, kind=Double, run_s=1.0, **limits):
        self.role = kind(Context(role="double"))
        self.lane = FakeLane(self.role, run_s)
        self.former = BatchFormer(**{"items_max": 4} | limits)
        clock = asyncio.get_running_loop().time
        self.batcher = Batcher(self.role, self.lane, self.former, Deadlines(), clock=clock)

    def submit(self, n, **kwargs):
        return asyncio.create_task(self.batcher.submit({"n": n}, request(**kwargs)))

    def sizes(self):
        return [len(batch) for batch in self.lane.batches]


def errors_of(results):
    return [type(result) if isinstance(result, Exception) else result.fields for result in results]


def test_a_lone_item_does_not_wait():
    async def scenario():
        answer = await Bench().submit(4)
        return asyncio.get_running_loop().time(), answer

    now_s, answer = run_virtual(scenario())
    assert now_s == 1.0
    assert answer.fields == {"n": 8}
    assert (answer.timing.queued_ms, answer.timing.ran_ms, answer.timing.batch_size) == (0, 1000, 1)


def test_what_comes_in_one_turn_goes_together_and_the_next_batch_gathers_meanwhile():
    async def scenario():
        bench = Bench()
        first = [bench.submit(n) for n in range(2)]
        await asyncio.sleep(0.5)
        second = [bench.submit(n) for n in range(5)]
        answers = await asyncio.gather(*first, *second)
        return bench.sizes(), [a.fields["n"] for a in answers], answers[2].timing.queued_ms

    assert run_virtual(scenario()) == ([2, 4, 1], [0, 2, 0, 2, 4, 6, 8], 500.0)


def test_an_item_that_makes_the_batch_raise_fails_alone():
    async def scenario():
        bench = Bench()
        tasks = [bench.submit(n) for n in (1, "raise", 3)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert errors_of(run_virtual(scenario())) == [{"n": 2}, RoleError, {"n": 6}]


@pytest.mark.parametrize(
    ("n", "kind", "words"),
    [
        ("raise", RoleError, "role 'double' failed: ValueError: bad number"),
        ("return", RoleError, "KeyError"),
        ("mesh", Unprocessable, "no"),
        ("text", RoleError, "gave str where a dict"),
    ],
)
def test_what_a_role_raises_becomes_an_error_of_ours(n, kind, words):
    with pytest.raises(kind, match=words) as caught:
        run_virtual(_submitted(n))
    assert caught.value.role == "double"


async def _submitted(n):
    return await Bench().submit(n)


def test_answers_that_do_not_match_the_batch_are_an_error():
    async def scenario():
        bench = Bench(Short)
        return await asyncio.gather(*(bench.submit(n) for n in (1, 2)), return_exceptions=True)

    assert errors_of(run_virtual(scenario())) == [RoleError, RoleError]


def test_a_role_that_may_run_nothing_twice_does_not():
    async def scenario():
        bench = Bench(Once)
        tasks = [bench.submit(n) for n in (1, "raise", 3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return errors_of(results), bench.role.seen

    assert run_virtual(scenario()) == ([{"n": 2}, RoleError, {"n": 6}], [1, "raise", 3])


def test_an_item_whose_caller_went_away_never_begins():
    async def scenario():
        bench = Bench()
        running = bench.submit(1)
        await asyncio.sleep(0.1)
        gone, stays = bench.submit(2), bench.submit(3)
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.gather(running, stays)
        return bench.lane.batches, bench.batcher.statistics()

    batches, figures = run_virtual(scenario())
    assert batches == [[{"n": 1}], [{"n": 3}]]
    assert figures["dropped"] == {"gone": 1}
    assert (figures["queued"], figures["running"]) == (0, 0)


def test_a_caller_who_leaves_a_running_batch_hurts_nobody():
    async def scenario():
        bench = Bench()
        gone, stays = bench.submit(2), bench.submit(3)
        await asyncio.sleep(0.5)
        gone.cancel()
        return (await stays).fields

    assert run_virtual(scenario()) == {"n": 6}


@pytest.mark.parametrize(("in_s", "at_s"), [(0.25, 0.26), (5.0, 5.02)])
def test_a_wait_ends_at_its_deadline_queued_or_running(in_s, at_s):
    async def scenario():
        loop, bench = asyncio.get_running_loop(), Bench(run_s=4.0, items_max=1)
        first = bench.submit(1)
        await asyncio.sleep(0)
        late = bench.submit(2, in_s=in_s)
        with pytest.raises(DeadlineExceeded):
            await late
        now_s = loop.time()
        await first
        return now_s, len(bench.former)

    now_s, waiting = run_virtual(scenario())
    assert in_s <= now_s <= at_s + 1e-9
    assert waiting == 0


def test_an_expired_item_never_begins():
    async def scenario():
        bench = Bench(items_max=1)
        tasks = [bench.submit(1), bench.submit(2, in_s=0.5), bench.submit(3)]
        await asyncio.gather(*tasks, return_exceptions=True)
        return [item["n"] for batch in bench.lane.batches for item in batch]

    assert run_virtual(scenario())[1:] != [2]


def test_a_full_queue_refuses_the_item_and_evicts_for_the_urgent():
    async def scenario():
        bench = Bench(items_max=1, queue_max=1)
        running = bench.submit(0)
        await asyncio.sleep(0.1)
        low = bench.submit(1, priority=Priority.BATCH)
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded):
            await bench.submit(2, priority=Priority.BATCH)
        assert {"overloaded": 1} == bench.batcher.statistics()["dropped"]
        high = bench.submit(3)
        return await asyncio.gather(running, low, high, return_exceptions=True)

    assert errors_of(run_virtual(scenario())) == [{"n": 0}, Overloaded, {"n": 6}]


def test_a_window_gathers_and_is_counted():
    async def scenario():
        bench = Bench(wait_s=0.25)
        first = bench.submit(1)
        await asyncio.sleep(0.2)
        await asyncio.gather(first, bench.submit(2))
        return bench.sizes(), asyncio.get_running_loop().time(), bench.batcher.statistics()

    sizes, now_s, figures = run_virtual(scenario())
    assert (sizes, now_s, figures["timeout_batches"]) == ([2], 1.25, 1)


def test_cost_limits_a_batch():
    async def scenario():
        bench = Bench(Heavy, items_max=9, cost_max=10)
        await asyncio.gather(*(bench.submit(n) for n in (6, 6, 4, 1)))
        return bench.sizes()

    assert run_virtual(scenario()) == [1, 2, 1]


def test_a_cost_that_cannot_be_told_fails_its_item_only():
    async def scenario():
        bench = Bench(Heavy)
        tasks = [bench.submit("text"), bench.submit(2)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert errors_of(run_virtual(scenario())) == [RoleError, {"n": 4}]


def test_statistics_count_batches():
    async def scenario():
        bench = Bench(items_max=2)
        await asyncio.gather(*(bench.submit(n) for n in range(5)))
        return bench.batcher.statistics()

    figures = run_virtual(scenario())
    assert figures["total_batches"] == 3
    assert figures["avg_batch_size"] == 1.667
    assert figures["full_batches"] == 2
    assert figures["batch_sizes"] == {"1": 1, "2": 2}
    assert figures["ran_ms"] == {"p50": 1000.0, "p95": 1000.0, "p99": 1000.0}
    assert figures["queued_ms"]["p99"] == 2000.0


def test_closing_refuses_what_waits_and_what_comes():
    async def scenario():
        bench = Bench(items_max=1)
        tasks = [bench.submit(1), bench.submit(2)]
        await asyncio.sleep(0.1)
        await bench.batcher.aclose()
        tasks.append(bench.submit(3))
        return await asyncio.gather(*tasks, return_exceptions=True), bench.lane.is_closed

    results, is_closed = run_virtual(scenario())
    assert errors_of(results) == [{"n": 2}, Draining, Draining]
    assert is_closed


callers = st.tuples(
    st.integers(0, 40),
    st.integers(1, 30),
    st.none() | st.integers(0, 20),
    st.sampled_from(Priority),
)


@given(st.lists(callers, max_size=25), st.integers(1, 4), st.integers(1, 6))
def test_every_caller_hears_once_and_of_its_own(drawn, items_max, queue_max):
    """Whatever is cancelled, late or refused: one outcome each, in time, and nothing left over."""

    async def one(bench, number, start, wait, cancel):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(start)
        task = bench.submit(number, in_s=wait, priority=cancel[1])
        if cancel[0] is not None:
            loop.call_later(cancel[0], task.cancel)
        try:
            answer = await task
            assert answer.fields == {"n": 2 * number}
        except (MeshError, asyncio.CancelledError):
            pass
        assert loop.time() <= start + wait + 0.021

    async def scenario():
        bench = Bench(items_max=items_max, queue_max=queue_max, run_s=3.0)
        await asyncio.gather(*(one(bench, n, s, w, (c, p)) for n, (s, w, c, p) in enumerate(drawn)))
        await asyncio.sleep(100)
        ran = [item["n"] for batch in bench.lane.batches for item in batch]
        assert len(ran) == len(set(ran))
        assert all(len(batch) <= items_max for batch in bench.lane.batches)
        assert len(bench.former) == 0
        bench.former.check()

    run_virtual(scenario())

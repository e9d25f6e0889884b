"""A call reaches a node that serves its role, and another one when that node fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing

import pytest

from mesh.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NoOwner,
    NotFound,
    Overloaded,
    PeerError,
    RoleError,
    Unprocessable,
    Unreachable,
)
from mesh.flow.choose import LOADING_WAIT_S, OWNER_WAIT_S
from mesh.flow.reach import Answered
from mesh.gossip.member import Status
from mesh.roles.base import Piece, Role, StreamRole, Whole
from tests.support.flow import Fault, World, request
from tests.support.virtual_loop import run_virtual


class Upper(Role):
    """Shouts."""

    def run(self, batch):
        return [{"text": item["text"].upper()} for item in batch]


class Once(Upper):
    """May not run an item twice."""

    idempotent = False


class Fails(Role):
    """Always fails."""

    def run(self, batch):
        raise ValueError("no")


class Letters(StreamRole):
    """Gives a text letter by letter."""

    closed = 0

    async def stream(self, item, request):
        try:
            for letter in item["text"]:
                await asyncio.sleep(0.1)
                yield Piece({"text": letter})
            yield Whole({"text": item["text"]}, 0.0, 100.0, 1)
        finally:
            Letters.closed += 1


def world(kind=Upper, *nodes, door_serves=False, **spec):
    made = World()
    made.role("r", kind, *(nodes or (("n0", "n1") if door_serves else ("n1", "n2"))), **spec)
    return made


async def call(made, text="a", door="n0", id="r", **kwargs):
    return await made[door].router.call("r", {"text": text}, request(id, **kwargs))


def fail(made, node, **fault):
    made.network.faults[f"{node}:1"] = Fault(**fault)


def test_a_role_here_is_called_without_the_network():
    async def scenario():
        made = world(Upper, "n0")
        return await call(made), made.network.calls

    answered, calls = run_virtual(scenario())
    assert (answered.fields, answered.node, answered.network_ms) == ({"text": "A"}, "n0", 0.0)
    assert calls == []


def test_a_role_elsewhere_is_called_there_and_its_time_is_told():
    async def scenario():
        made = world(Upper, "n1")
        fail(made, "n1", delay_s=0.05)
        return await call(made)

    answered = run_virtual(scenario())
    assert (answered.node, answered.attempts, answered.ran_ms) == ("n1", 1, pytest.approx(100.0))
    assert answered.network_ms == pytest.approx(50.0)


@pytest.mark.parametrize(
    "error", [Unreachable(), ConnectionLost(), Overloaded("full"), NoOwner("gone")]
)
@pytest.mark.parametrize("route", ["least-loaded", "ring", "round-robin", "random"])
def test_a_failing_node_is_replaced_whatever_the_route(error, route):
    async def scenario():
        made = world(route=route)
        fail(made, "n1", before=error)
        answers = [await call(made, id=str(n)) for n in range(12)]
        return Counter((a.node, a.attempts) for a in answers)

    seen = run_virtual(scenario())
    assert set(seen) <= {("n2", 1), ("n2", 2)}
    assert sum(seen.values()) == 12


def test_a_call_that_may_have_begun_is_not_repeated_if_it_must_not():
    async def scenario():
        made = world(Once, route="round-robin")
        for node in ("n1", "n2"):
            fail(made, node, after=ConnectionLost("gone"))
        with pytest.raises(ConnectionLost) as caught:
            await call(made)
        return caught.value, [len(lane.batches) for lane in made.lanes.values()]

    error, ran = run_virtual(scenario())
    assert (error.role, error.node) == ("r", "n1")
    assert ran == [1, 0]


def test_a_call_that_cannot_have_begun_is_repeated_even_then():
    async def scenario():
        made = world(Once, route="round-robin")
        fail(made, "n1", before=Unreachable())
        return (await call(made)).node

    assert run_virtual(scenario()) == "n2"


def test_every_node_failing_ends_with_the_last_error():
    async def scenario():
        made = world(route="round-robin")
        for node in ("n1", "n2"):
            fail(made, node, before=Unreachable("no way"))
        with pytest.raises(PeerError, match="no way"):
            await call(made)
        return sorted(made.network.calls)

    assert run_virtual(scenario()) == ["n1:1", "n1:1", "n2:1"]


@pytest.mark.parametrize(
    ("kind", "text", "error"), [(Fails, "a", RoleError), (Upper, 5, RoleError)]
)
def test_a_roles_own_error_is_not_repeated(kind, text, error):
    async def scenario():
        made = world(kind)
        with pytest.raises(error):
            await call(made, text)
        return len(made.network.calls)

    assert run_virtual(scenario()) == 1


def test_an_unknown_role_is_not_found():
    async def scenario():
        with pytest.raises(NotFound, match="no role 'x'; there are r"):
            await world()["n0"].router.call("x", {}, request())

    run_virtual(scenario())


def test_a_role_that_nobody_serves_fails_soon_and_says_whom_it_missed():
    async def scenario():
        made = world(Upper, "n2")
        made.tell(n2=Status.DEAD)
        with pytest.raises(NoOwner, match=r"'r' now; expected n2 \(dead\)") as caught:
            await call(made)
        return asyncio.get_running_loop().time(), caught.value.retry_after_s

    assert run_virtual(scenario()) == (OWNER_WAIT_S, 1.0)


def test_a_role_that_comes_back_within_the_wait_answers():
    async def scenario():
        made = world(Upper, "n2")
        made.tell(n2=Status.DEAD)
        asyncio.get_running_loop().call_later(1.0, made.tell)
        await call(made)
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("loads_s", "ends_s"), [(9.0, 9.1), (LOADING_WAIT_S + 1.0, LOADING_WAIT_S)]
)
def test_a_node_that_loads_its_role_is_waited_for(loads_s, ends_s):
    """Reading a model takes seconds; who asks meanwhile gets an answer, or an error in the end."""

    async def scenario():
        made, loop = world(Upper, "n2"), asyncio.get_running_loop()
        role = made["n2"].local._served.pop("r")

        def load():
            made["n2"].local._served["r"] = role
            made.tell()

        made.tell()
        loop.call_later(loads_s, load)
        if loads_s < LOADING_WAIT_S:
            await call(made)
        else:
            with pytest.raises(NoOwner, match=r"expected n2 \(role not ready\)"):
                await call(made)
        return loop.time()

    assert run_virtual(scenario()) == pytest.approx(ends_s)


def test_an_error_of_the_way_names_its_node_once():
    """Calls that end together each get an error of their own, which says who failed whom."""

    async def scenario():
        made = world(Upper, "n1")
        fail(made, "n1", before=Unreachable("refused"))
        with pytest.raises(Unreachable) as caught:
            await call(made)
        return caught.value.message

    expected = "node 'n1' failed: refused; no other node can serve role 'r' now"
    assert run_virtual(scenario()) == expected


def test_the_wait_for_a_role_ends_with_the_deadline():
    async def scenario():
        made = world(Upper, "n2")
        made.tell(n2=Status.DEAD)
        with pytest.raises(DeadlineExceeded):
            await call(made, in_s=0.5)
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == 0.5


def test_suspects_are_asked_only_if_there_is_no_other():
    async def scenario():
        made = world(route="round-robin")
        made.tell(n1=Status.SUSPECT)
        both = {(await call(made)).node for _ in range(4)}
        made.tell(n1=Status.SUSPECT, n2=Status.DEAD)
        return both, (await call(made)).node

    assert run_virtual(scenario()) == ({"n2"}, "n1")


def test_a_silent_node_costs_no_more_than_the_deadline():
    async def scenario():
        made = world(Upper, "n1")
        fail(made, "n1", is_silent=True)
        with pytest.raises(DeadlineExceeded):
            await call(made, in_s=2.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == pytest.approx(2.0)


def test_calls_with_one_key_stay_on_one_node():
    async def scenario():
        made = world(route="ring", key="text")
        nodes = {}
        for n in range(40):
            nodes.setdefault(n % 8, set()).add((await call(made, str(n % 8), id=str(n))).node)
        return nodes

    nodes = run_virtual(scenario())
    assert all(len(seen) == 1 for seen in nodes.values())
    assert set.union(*nodes.values()) == {"n1", "n2"}


def test_a_hot_key_spills_over_to_the_next_owner():
    async def scenario():
        made = world(route="ring", key="text")
        answers = await asyncio.gather(*(call(made, "hot", id=str(n)) for n in range(24)))
        return Counter(a.node for a in answers)

    assert min(run_virtual(scenario()).values()) >= 5


def test_the_faster_node_gets_more_of_the_load():
    async def scenario():
        made = world(run_s=0.1, batch=_batch(1))
        made.lanes["r", "n2"].run_s = 0.5
        await asyncio.sleep(20)  # past slow start
        for _ in range(5):
            await asyncio.gather(*(call(made, id=str(n)) for n in range(12)))
        return Counter({node: len(lane.batches) for (_, node), lane in made.lanes.items()})

    seen = run_virtual(scenario())
    assert seen["n1"] > 2 * seen["n2"] > 0


def _batch(items_max):
    from mesh.settings.topology import Batch

    return Batch(items_max=items_max)


def test_cancelling_a_call_cancels_it_on_its_node():
    async def scenario():
        made = world(Upper, "n1", run_s=5.0)
        first = asyncio.create_task(call(made))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(call(made))
        await asyncio.sleep(0.1)
        queued = made["n1"].local.statistics()["r"]["queued"]
        second.cancel()
        await asyncio.sleep(0.1)
        left = made["n1"].local.statistics()["r"]["queued"]
        await first
        return queued, left

    assert run_virtual(scenario()) == (1, 0)


async def streamed(made, text="abc", **kwargs):
    async with aclosing(made["n0"].router.stream("r", {"text": text}, request(**kwargs))) as parts:
        return [part async for part in parts]


@pytest.mark.parametrize("node", ["n0", "n1"])
def test_a_stream_gives_pieces_and_then_the_whole(node):
    parts = run_virtual(_streamed(node))
    assert [p.fields["text"] for p in parts] == ["a", "b", "c", "abc"]
    assert isinstance(parts[-1], Answered)
    assert parts[-1].node == node


async def _streamed(node):
    return await streamed(world(Letters, node))


def test_a_role_that_does_not_stream_gives_the_whole():
    async def scenario():
        return await streamed(world(Upper, "n1"))

    (only,) = run_virtual(scenario())
    assert only.fields == {"text": "ABC"}


def test_a_stream_moves_on_before_its_first_piece_but_not_after():
    async def scenario():
        made = world(Letters, route="round-robin")
        fail(made, "n1", before=Unreachable())
        moved = await streamed(made)
        fail(made, "n1", pieces_max=1)
        made["n0"].router._chooser._turns["r"] = -1
        stream = made["n0"].router.stream("r", {"text": "abc"}, request())
        first = await anext(stream)
        with pytest.raises(ConnectionLost):
            await anext(stream)
        return moved[-1].attempts, first.fields["text"]

    assert run_virtual(scenario()) == (2, "a")


@pytest.mark.parametrize("node", ["n0", "n1"])
def test_closing_a_stream_frees_what_it_held(node):
    async def scenario():
        made = world(Letters, node)
        before = Letters.closed
        stream = made["n0"].router.stream("r", {"text": "abc"}, request())
        await anext(stream)
        await stream.aclose()
        await asyncio.sleep(0)
        figures = made[node].local.statistics()["r"]
        return Letters.closed - before, figures["running"]

    assert run_virtual(scenario()) == (1, 0)


def test_a_stream_ends_at_its_deadline():
    async def scenario():
        with pytest.raises(DeadlineExceeded):
            await streamed(world(Letters, "n0"), in_s=0.25)
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == 0.25


def test_in_flight_counts_return_to_zero_whatever_happens():
    async def scenario():
        made = world()
        fail(made, "n1", after=ConnectionLost(), times=3)
        tasks = [asyncio.create_task(call(made, id=str(n), in_s=0.3)) for n in range(20)]
        await asyncio.sleep(0.05)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {e.view.in_flight for e in made["n0"].router._reach.edges.values()}

    assert run_virtual(scenario()) == {0}


class Typed(Upper):
    """Takes a text."""

    takes = {"text": str}  # noqa: RUF012


def test_a_wrong_item_is_the_callers_fault():
    async def scenario():
        with pytest.raises(Unprocessable, match="field 'text' must be a string, not a number"):
            await call(world(Typed), 5)

    run_virtual(scenario())


def slow(made, node, delay_s):
    fail(made, node, delay_s=delay_s)


async def warm_up(made, count=120):
    for n in range(count):
        await call(made, id=str(n))


def test_a_late_call_is_asked_for_twice_and_the_loser_is_cancelled():
    async def scenario():
        made = world(route="round-robin", run_s=0.01)
        await warm_up(made)
        loop = asyncio.get_running_loop()
        made["n0"].router._chooser._turns["r"] = -1  # n1 is next
        made.lanes["r", "n1"].run_s = 5.0
        busy = asyncio.create_task(made["n1"].local.call("r", {"text": "x"}, request()))
        await asyncio.sleep(0.1)
        began_s = loop.time()
        answered = await call(made)
        took_s = loop.time() - began_s
        left = made["n1"].local.statistics()["r"]["queued"]
        await busy
        return answered.node, answered.attempts, took_s, left, made["n0"].router.statistics()

    node, tries, took_s, left, figures = run_virtual(scenario())
    assert (node, tries, left) == ("n2", 2, 0)
    assert took_s == pytest.approx(0.03)  # 20 ms until the hedge, 10 ms for its run
    assert figures["hedges"] == 1


def test_hedges_are_a_small_share_of_the_calls():
    async def scenario():
        made = world(route="round-robin", run_s=0.01)
        await warm_up(made)
        slow(made, "n1", 0.5)
        before = len(made.network.calls)
        for n in range(400):
            await call(made, id=str(n))
        return len(made.network.calls) - before - 400

    # Twenty earned by 400 calls, ten saved up before, and one per ten seconds.
    assert 20 <= run_virtual(scenario()) <= 42


def test_what_may_not_run_twice_is_not_hedged():
    async def scenario():
        made = world(Once, route="round-robin", run_s=0.01)
        await warm_up(made)
        slow(made, "n1", 0.5)
        for n in range(10):
            await call(made, id=str(n))
        return made["n0"].router.statistics()["hedges"]

    assert run_virtual(scenario()) == 0


async def watched(made, main):
    watch = asyncio.create_task(made["n0"].router.run())
    try:
        return await main
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


@pytest.mark.parametrize("status", [Status.SUSPECT, Status.DEAD])
def test_calls_to_a_node_in_doubt_are_asked_elsewhere_without_waiting(status):
    async def scenario():
        made, loop = world(route="round-robin", run_s=0.01), asyncio.get_running_loop()
        fail(made, "n1", is_silent=True)

        async def main():
            tasks = [asyncio.create_task(call(made, id=str(n))) for n in range(40)]
            loop.call_later(2.0, lambda: made.tell(n1=status))
            answers = await asyncio.gather(*tasks)
            return Counter(a.node for a in answers), loop.time(), made.network.calls.count("n1:1")

        return await watched(made, main())

    assert run_virtual(scenario()) == ({"n2": 40}, pytest.approx(2.01), 20)


def test_a_stream_that_has_not_begun_leaves_a_node_in_doubt():
    async def scenario():
        made, loop = world(Letters, route="round-robin"), asyncio.get_running_loop()
        fail(made, "n1", delay_s=1e6)

        async def main():
            loop.call_later(2.0, lambda: made.tell(n1=Status.SUSPECT))
            return await streamed(made), loop.time()

        return await watched(made, main())

    parts, now_s = run_virtual(scenario())
    assert [p.fields["text"] for p in parts] == ["a", "b", "c", "abc"]
    assert (parts[-1].node, parts[-1].attempts) == ("n2", 2)
    assert now_s == pytest.approx(2.3)


def test_a_cancelled_race_takes_both_calls_with_it():
    async def scenario():
        made = world(route="round-robin", run_s=9.0)
        watch = asyncio.create_task(made["n0"].router.run())
        fail(made, "n1", is_silent=True)
        task = asyncio.create_task(call(made))
        await asyncio.sleep(1)
        made.tell(n1=Status.SUSPECT)
        await asyncio.sleep(1)
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        in_flight = {e.view.in_flight for e in made["n0"].router._reach.edges.values()}
        return type(results[0]), in_flight, len(asyncio.all_tasks())

    assert run_virtual(scenario()) == (asyncio.CancelledError, {0}, 1)


def test_a_broken_node_is_left_alone_and_then_tried_by_one_call():
    async def scenario():
        made = world(route="round-robin", run_s=0.001)
        fail(made, "n1", before=Unreachable())
        for n in range(30):
            await call(made, id=str(n))
        tried = made.network.calls.count("n1:1")
        await asyncio.sleep(1.3)
        made.network.faults.clear()
        for n in range(12):
            await call(made, id=str(n))
        return tried, made.network.calls.count("n1:1") - tried

    tried, after = run_virtual(scenario())
    assert tried == 5
    assert after >= 5


def test_who_met_a_dead_node_waits_for_the_one_that_another_call_tries():
    """Two nodes, one just back and tried by one call at a time, the other just gone."""

    async def scenario():
        made = world(route="round-robin", run_s=0.1)
        fail(made, "n2", before=Unreachable())
        for n in range(30):
            await call(made, id=str(n))
        await asyncio.sleep(1.3)
        made.network.faults.clear()
        fail(made, "n1", before=Unreachable())
        calls = (call(made, id=f"later{n}") for n in range(4))
        return [answered.node for answered in await asyncio.gather(*calls)]

    assert run_virtual(scenario()) == ["n2"] * 4


def test_when_every_breaker_is_open_the_error_says_so_soon():
    async def scenario():
        made = world(Upper, "n1")
        fail(made, "n1", before=Unreachable())
        errors = []
        for n in range(6):
            (error,) = await asyncio.gather(call(made, id=str(n), in_s=0.5), return_exceptions=True)
            errors.append(type(error).__name__)
        return errors

    assert run_virtual(scenario()) == ["Unreachable"] * 5 + ["DeadlineExceeded"]


def test_a_node_whose_role_is_broken_is_left_out_while_another_is_fine():
    async def scenario():
        made = world(route="round-robin", run_s=0.001)
        broken = Fails(made.lanes["r", "n1"].role.context)
        made.lanes["r", "n1"].role = broken
        failed = []
        for n in range(200):
            (result,) = await asyncio.gather(call(made, id=str(n)), return_exceptions=True)
            failed.append(isinstance(result, RoleError))
        return failed

    failed = run_virtual(scenario())
    assert sum(failed[:40]) == 20
    assert sum(failed[60:]) == 0


def test_bad_items_close_no_node():
    async def scenario():
        made = world(route="round-robin", run_s=0.001)
        for n in range(100):
            await asyncio.gather(call(made, 5, id=str(n)), return_exceptions=True)
        return Counter([(await call(made, id=str(n))).node for n in range(10)])

    assert run_virtual(scenario()) == {"n1": 5, "n2": 5}


def test_refused_calls_are_retried_only_out_of_a_budget():
    async def scenario():
        made = world(route="round-robin")
        for node in ("n1", "n2"):
            fail(made, node, before=Overloaded("full", retry_after_s=3.0))
        results = await asyncio.gather(
            *(call(made, id=str(n)) for n in range(100)), return_exceptions=True
        )
        names = Counter(type(result).__name__ for result in results)
        return names, len(made.network.calls), {r.retry_after_s for r in results}

    names, calls, after = run_virtual(scenario())
    assert names == {"Overloaded": 10, "AttemptsSpent": 90}
    assert calls == 110
    assert after == {3.0}


def test_what_streams_is_not_hedged():
    async def scenario():
        made = world(Letters, route="round-robin")
        await warm_up(made)
        slow(made, "n1", 5.0)
        await asyncio.gather(*(call(made, id=str(n)) for n in range(4)))
        return made["n0"].router.statistics()["hedges"]

    assert run_virtual(scenario()) == 0

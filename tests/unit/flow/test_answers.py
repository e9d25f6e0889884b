"""Equal items are computed once while in flight and while kept, and the answer says so."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import DeadlineExceeded, RoleError
from mesh.flow.reach import Answered
from mesh.roles.base import Piece, Role, StreamRole, Whole
from mesh.settings.topology import Cache
from tests.support.flow import World, request
from tests.support.virtual_loop import run_virtual

KEPT = Cache(items_max=100, ttl_s=60.0)


class Upper(Role):
    """Shouts, but not everything."""

    def run(self, batch):
        return [
            ValueError("no") if item["text"] == "bad" else {"text": item["text"].upper()}
            for item in batch
        ]


class Letters(StreamRole):
    """Gives a text letter by letter."""

    runs = 0

    async def stream(self, item, request):
        Letters.runs += 1
        for letter in item["text"]:
            yield Piece({"text": letter})
        yield Whole({"text": item["text"]})


def world(kind=Upper, *nodes, **spec):
    made = World()
    made.role("r", kind, *(nodes or ("n1",)), cache=KEPT, **spec)
    return made


def ask(made, text="a", door="n0", id="r", in_s=60.0):
    return made[door].router.call("r", {"text": text}, request(id, in_s))


def ran(made, node="n1"):
    return [item["text"] for batch in made.lanes["r", node].batches for item in batch]


def test_an_equal_item_is_answered_from_what_is_kept_until_it_is_too_old():
    async def scenario():
        made = world()
        first, second = await ask(made), await ask(made)
        await asyncio.sleep(61)
        third = await ask(made)
        return (
            [a.fields for a in (first, second, third)],
            [a.cached for a in (first, second, third)],
            ran(made),
        )

    assert run_virtual(scenario()) == ([{"text": "A"}] * 3, [False, True, False], ["a", "a"])


def test_equal_items_in_flight_are_computed_once_from_any_door():
    async def scenario():
        made = world()
        answers = await asyncio.gather(*(ask(made, door=f"n{n % 3}", id=str(n)) for n in range(9)))
        return (
            sum(a.cached for a in answers),
            ran(made),
            made["n1"].local.statistics()["r"]["cache"],
        )

    cached, items, figures = run_virtual(scenario())
    assert (cached, items) == (8, ["a"])
    assert (figures["joined"], figures["items"]) == (8, 1)


def test_an_error_is_not_kept():
    async def scenario():
        made = world()
        for _ in range(2):
            with pytest.raises(RoleError):
                await ask(made, "bad")
        return ran(made)

    assert run_virtual(scenario()) == ["bad", "bad"]


def test_who_joins_one_with_less_time_still_gets_its_answer():
    async def scenario():
        made = world(run_s=2.0)
        hurried = asyncio.create_task(ask(made, in_s=1.0))
        await asyncio.sleep(0.1)
        patient = await ask(made, in_s=30.0)
        with pytest.raises(DeadlineExceeded):
            await hurried
        return patient.fields

    assert run_virtual(scenario()) == {"text": "A"}


def test_who_joins_keeps_its_own_deadline():
    async def scenario():
        made, loop = world(run_s=9.0), asyncio.get_running_loop()
        patient = asyncio.create_task(ask(made))
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceeded):
            await ask(made, in_s=1.0)
        now_s = loop.time()
        return now_s, (await patient).fields

    assert run_virtual(scenario()) == (pytest.approx(1.1), {"text": "A"})


def test_a_leader_who_leaves_does_not_take_the_others_along():
    async def scenario():
        made = world(run_s=1.0)
        leader = asyncio.create_task(ask(made))
        await asyncio.sleep(0.1)
        other = asyncio.create_task(ask(made))
        await asyncio.sleep(0.1)
        leader.cancel()
        return (await other).fields, ran(made)

    assert run_virtual(scenario()) == ({"text": "A"}, ["a"])


def test_with_the_ring_every_node_together_is_one_cache():
    async def scenario():
        made = world(Upper, "n0", "n1", "n2", route="ring", key="text")
        for n in range(90):
            await ask(made, str(n % 10), door=f"n{n % 3}", id=str(n))
        return sorted(ran(made, "n0") + ran(made, "n1") + ran(made, "n2"))

    assert run_virtual(scenario()) == sorted(map(str, range(10)))


def test_a_streamed_answer_is_kept_whole():
    async def scenario():
        made, runs = world(Letters), Letters.runs
        seen = []
        for _ in range(2):
            stream = made["n0"].router.stream("r", {"text": "ab"}, request())
            seen.append([part.fields["text"] async for part in stream])
            assert isinstance((await ask(made, "ab")), Answered)
        return seen, Letters.runs - runs

    assert run_virtual(scenario()) == ([["a", "b", "ab"], ["ab"]], 1)

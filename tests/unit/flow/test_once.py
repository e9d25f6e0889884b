"""One id, one answer: in flight, afterwards, at another door, and when its keeper dies."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import ConnectionLost, DeadlineExceeded, NotFound, RoleError, Unreachable
from mesh.flow.once import KEPT_S
from mesh.roles.base import Role
from mesh.settings.topology import Pipeline, Stage, Topology
from tests.support.flow import NODES, Fault, World, request
from tests.support.virtual_loop import run_virtual


class Upper(Role):
    """Shouts, but not everything."""

    def run(self, batch):
        return [
            ValueError("no") if item["text"] == "bad" else {"text": item["text"].upper()}
            for item in batch
        ]


class Pays(Upper):
    """May run nothing twice."""

    idempotent = False


def world(kind=Upper, run_s=1.0):
    made = World()
    made.role("r", kind, *NODES, run_s=run_s)
    stage = Stage("s", "r", {"text": "query"}, {"text": "answer"})
    made.pipeline("p", Pipeline(("query",), ("answer",), (stage,)))
    return made


def ask(made, door="n0", id="id", query="a", in_s=60.0):
    return made[door].once.run("p", {"query": query}, request(id, in_s))


def ran(made):
    return [item["text"] for lane in made.lanes.values() for b in lane.batches for item in b]


def keeper(made, id="id"):
    return made["n0"].directory.keepers(id)[0].name


def other_doors(made):
    return [name for name in NODES if name != keeper(made)]


def test_all_doors_agree_on_the_keeper():
    async def scenario():
        made = world()
        ids = [str(n) for n in range(50)]
        views = [[made[d].directory.keepers(i)[0].name for i in ids] for d in NODES]
        return views[0] == views[1] == views[2], set(views[0])

    assert run_virtual(scenario()) == (True, set(NODES))


def test_a_request_in_flight_is_joined_from_every_door():
    async def scenario():
        made = world()
        outcomes = await asyncio.gather(*(ask(made, door) for door in NODES * 3))
        cached = [o.trace["stages"][0]["cached"] for o in outcomes]
        return {o.fields["answer"] for o in outcomes}, cached.count(False), ran(made)

    assert run_virtual(scenario()) == ({"A"}, 1, ["a"])


def test_an_answered_one_is_answered_alike_within_its_window():
    async def scenario():
        made = world()
        first = await ask(made, "n0")
        again = await ask(made, "n1")
        await asyncio.sleep(KEPT_S)
        late = await ask(made, "n2")
        assert first.fields == again.fields == late.fields == {"answer": "A"}
        assert again.trace["id"] == "id"
        return ran(made)

    assert run_virtual(scenario()) == ["a", "a"]


def test_an_id_used_for_another_question_gets_another_answer():
    async def scenario():
        made = world()
        return [(await ask(made, query=query)).fields["answer"] for query in "ab"]

    assert run_virtual(scenario()) == ["A", "B"]


def test_an_error_is_told_but_not_kept():
    async def scenario():
        made = world()
        for door in NODES:
            with pytest.raises(RoleError):
                await ask(made, door, query="bad")
        return ran(made)

    assert run_virtual(scenario()) == ["bad"] * 3


@pytest.mark.parametrize("error", [Unreachable(), ConnectionLost()])
def test_a_dead_keeper_costs_no_answer(error):
    async def scenario():
        made = world()
        made.network.faults[f"{keeper(made)}:1"] = Fault(before=error)
        first, second = other_doors(made)
        outcomes = await asyncio.gather(ask(made, first), ask(made, second))
        return {o.fields["answer"] for o in outcomes}, len(ran(made))

    assert run_virtual(scenario()) == ({"A"}, 1)  # both met at the successor


def test_what_may_not_run_twice_is_not_run_again_when_its_keeper_is_lost():
    async def scenario():
        made = world(Pays)
        made.network.faults[f"{keeper(made)}:1"] = Fault(after=ConnectionLost())
        with pytest.raises(ConnectionLost):
            await ask(made, other_doors(made)[0])
        return len(ran(made))

    assert run_virtual(scenario()) == 1


def test_a_client_whose_door_died_asks_another_and_joins():
    async def scenario():
        made = world(run_s=5.0)
        first, second = other_doors(made)
        dying = asyncio.create_task(ask(made, first))
        await asyncio.sleep(1)
        again = asyncio.create_task(ask(made, second))
        await asyncio.sleep(1)
        dying.cancel()
        return (await again).fields, ran(made)

    assert run_virtual(scenario()) == ({"answer": "A"}, ["a"])


def test_a_client_that_goes_away_frees_its_work():
    async def scenario():
        made = world(run_s=5.0)
        task = asyncio.create_task(ask(made, other_doors(made)[0]))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(1)
        return [made[name].once.statistics()["in_flight"] for name in NODES]

    assert run_virtual(scenario()) == [0, 0, 0]


def test_who_joins_one_with_less_time_still_gets_its_answer():
    async def scenario():
        made = world(run_s=2.0)
        hurried = asyncio.create_task(ask(made, in_s=1.0))
        await asyncio.sleep(0.1)
        patient = await ask(made, "n1")
        with pytest.raises(DeadlineExceeded):
            await hurried
        return patient.fields

    assert run_virtual(scenario()) == {"answer": "A"}


def test_a_keeper_whose_topology_is_older_costs_no_answer():
    """Nodes take a topology over one by one; a door asks for what its keeper does not have yet."""

    async def scenario():
        made = world()
        older = Topology(mesh=made.topology.mesh)
        made[keeper(made)].once._topology = lambda: older
        outcomes = await asyncio.gather(*(ask(made, door) for door in other_doors(made)))
        return {one.fields["answer"] for one in outcomes}, len(ran(made))

    assert run_virtual(scenario()) == ({"A"}, 1)  # both met at the successor


def test_an_unknown_pipeline_is_not_found():
    async def scenario():
        with pytest.raises(NotFound):
            await world()["n0"].once.run("x", {}, request())

    run_virtual(scenario())


def test_what_may_not_run_twice_is_seen_through_when_its_client_goes():
    """Whoever asks again under the id finds the answer, and nothing is done a second time."""

    async def scenario():
        made = world(Pays)
        first = asyncio.create_task(ask(made, keeper(made)))
        await asyncio.sleep(0.5)
        first.cancel()
        await asyncio.wait({first})
        outcome = await ask(made, other_doors(made)[0])
        left = made[keeper(made)].once.statistics()["in_flight"]
        return outcome.fields["answer"], ran(made), left

    assert run_virtual(scenario()) == ("A", ["a"], 0)

"""A call that is told of ends as one that is awaited would, and once."""

from __future__ import annotations

import asyncio
import gc
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConnectionLost, MeshError, NotFound, Unprocessable
from mesh.flow.batcher import Started
from mesh.flow.pipeline import Outcome
from mesh.flow.serving import Serving
from mesh.roles.base import Role, StreamRole, Whole
from mesh.settings.topology import Batch, Cache
from mesh.wire.messages import Call
from tests.support.flow import Fault, World, request
from tests.support.virtual_loop import run_virtual


class Upper(Role):
    """Upper case; strange on demand."""

    takes: ClassVar = {"text": str}
    idempotent = False

    def run(self, batch):
        return [self._one(item["text"]) for item in batch]

    def _one(self, text):
        return ValueError("no such letter") if text == "fail" else {"text": text.upper()}


class Retried(Upper):
    """May run again."""

    idempotent = True


class Spell(StreamRole):
    """Answers as a stream."""

    takes: ClassVar = {"text": str}

    async def stream(self, item, request):
        yield Whole({"text": item["text"]})


def world(kind=Upper, *nodes, **spec):
    made = World()
    made.role("it", kind, *(nodes or ("n0",)), **spec)
    return made


async def outcomes(made, items, in_s=60.0):
    """Return what each item ended as when told, and when awaited."""
    told = asyncio.get_running_loop().create_future()
    ended = {}

    def tell(number, outcome):
        assert number not in ended, "told twice"
        ended[number] = shown(outcome)
        if len(ended) == len(items):
            told.set_result(None)

    pipelines = made["n0"].pipelines
    for number, item in enumerate(items):
        asked = request(f"r{number}", in_s)
        started = pipelines.start_role("it", item, asked, lambda o, n=number: tell(n, o))
        assert started is not None
        assert number not in ended, "told before it returned"
    await told
    awaited = await asyncio.gather(
        *(
            pipelines.run_role("it", item, request(f"r{number}", in_s))
            for number, item in enumerate(items)
        ),
        return_exceptions=True,
    )
    return [ended[number] for number in range(len(items))], [shown(each) for each in awaited]


def shown(outcome):
    if isinstance(outcome, MeshError):
        return (
            outcome.code, outcome.message, outcome.role, outcome.node, outcome.request_id,
            outcome.retry_after_s is not None,
        )  # fmt: skip
    assert isinstance(outcome, Outcome)
    return outcome.fields, outcome.trace


ITEM = st.sampled_from([{"text": "a"}, {"text": "bc"}, {"text": "fail"}, {"text": 5}, {}])


@given(
    st.lists(ITEM, min_size=1, max_size=6), st.sampled_from([1, 3]), st.sampled_from(["n0", "n1"])
)
def test_told_and_awaited_calls_end_alike(items, queue_max, node):
    """Answers, traces, and the words of every error; here and at another node."""

    async def scenario():
        return await outcomes(world(Upper, node, queue_max=queue_max), items)

    told, awaited = run_virtual(scenario())
    assert told == awaited


@pytest.mark.parametrize("node", ["n0", "n1"])
def test_a_deadline_ends_a_started_call(node):
    """Queued or running, at the same time and with the same words."""

    async def scenario():
        made = world(Upper, node, run_s=5.0)
        found = await outcomes(made, [{"text": "a"}, {"text": "b"}], in_s=1.0)
        edge = made["n0"].router._reach.edge("it", f"{node}:1")
        return found, edge.view.in_flight

    (told, awaited), in_flight = run_virtual(scenario())
    assert told == awaited
    assert told[0][0] == "deadline_exceeded"
    assert in_flight == 0


@pytest.mark.parametrize("node", ["n0", "n1"])
def test_a_cancelled_call_is_never_told_and_leaves_the_queue(node):
    """Whether it has begun or not; who ran with it is told."""

    async def scenario():
        made, told = world(Upper, node, batch=Batch(items_max=1)), []
        start = made["n0"].pipelines.start_role
        calls = [
            start("it", {"text": text}, request(text), lambda outcome: told.append(outcome.fields))
            for text in "abc"
        ]
        await asyncio.sleep(0.05)
        calls[0].cancel()  # runs
        calls[1].cancel()  # waits
        calls[1].cancel()
        await asyncio.sleep(5)
        calls[2].cancel()  # is over
        edge = made["n0"].router._reach.edge("it", f"{node}:1")
        figures = made[node].local.statistics()["it"]
        return told, edge.view.in_flight, figures["dropped"], made.lanes["it", node].batches

    told, in_flight, dropped, batches = run_virtual(scenario())
    assert told == [{"text": "C"}]
    assert in_flight == 0
    assert dropped == {"gone": 1}
    assert batches == [[{"text": "a"}], [{"text": "c"}]]


def test_an_answered_call_needs_no_collector():
    """Nothing of it is left: at thousands a second, rings of objects become pauses."""

    async def scenario():
        start = world(batch=Batch(items_max=1))["n0"].pipelines.start_role
        for text in "ab":
            start("it", {"text": text}, request(text), lambda _: None)
        await asyncio.sleep(1)
        # By exact type: `isinstance` would ask modules' lazy attributes for their class.
        return sum(type(one) is Started for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        assert run_virtual(scenario()) == 0
    finally:
        gc.enable()


def test_a_listener_that_fails_spoils_no_others_answer():
    """Its batch is answered all the same."""

    async def scenario():
        made, told = world(), []

        def bad(outcome):
            raise ValueError("a fault of the listener")

        start = made["n0"].pipelines.start_role
        start("it", {"text": "a"}, request("a"), bad)
        start("it", {"text": "b"}, request("b"), told.append)
        await asyncio.sleep(1)
        return [outcome.fields for outcome in told]

    assert run_virtual(scenario()) == [{"text": "B"}]


def test_an_error_goes_the_routers_way():
    """A node that came meanwhile answers what this one refused."""

    async def scenario():
        made, told = world(Retried, batch=Batch(items_max=1)), []
        for text in "ab":
            made["n0"].pipelines.start_role("it", {"text": text}, request(text), told.append)
        await asyncio.sleep(0.05)
        made["n1"].serve("it", Retried, made.topology.roles["it"])
        made.tell()
        await made["n0"].local.unload("it")  # what waits is refused
        await asyncio.sleep(5)
        return [
            (
                each.fields["text"],
                each.trace["stages"][0]["node"],
                each.trace["stages"][0]["attempts"],
            )
            for each in told
        ]

    assert run_virtual(scenario()) == [("A", "n0", 1), ("B", "n1", 2)]


@pytest.mark.parametrize(
    ("nodes", "kind", "spec"),
    [
        (("n0", "n1"), Upper, {}),
        (("n0",), Spell, {}),
        (("n0",), Upper, {"cache": Cache(items_max=4)}),
    ],
)
def test_what_needs_a_choice_or_a_task_is_not_started(nodes, kind, spec):
    """And nothing has happened then."""

    async def scenario():
        made = world(kind, *nodes, **spec)
        started = made["n0"].pipelines.start_role("it", {"text": "a"}, request(), print)
        edges = made["n0"].router.statistics()["edges"]
        return started, [edge["calls"] for by in edges.values() for edge in by.values()]

    started, calls = run_virtual(scenario())
    assert started is None
    assert not any(calls)


def test_a_call_that_is_lost_on_its_way_goes_to_who_came_meanwhile():
    """The first attempt counts as one, wherever it was made."""

    async def scenario():
        made, told = world(Retried, "n1"), []
        made.network.faults["n1:1"] = Fault(after=ConnectionLost("cut"), times=1)
        made["n0"].pipelines.start_role("it", {"text": "a"}, request(), told.append)
        await asyncio.sleep(0.05)
        made["n2"].serve("it", Retried, made.topology.roles["it"])
        made.tell()
        await asyncio.sleep(5)
        stage = told[0].trace["stages"][0]
        return told[0].fields, stage["node"], stage["attempts"]

    assert run_virtual(scenario()) == ({"text": "A"}, "n2", 2)


def test_started_calls_of_peers_are_counted_until_they_end():
    """Told, refused or cancelled: a drain waits for exactly those that are under way."""

    async def scenario():
        made, told, serving = world(batch=Batch(items_max=1), queue_max=2), [], Serving()
        local = made["n0"].local
        handler = serving.counting(local.handle, local.begin)
        calls = [Call(to="role/it", fields={"text": text}, deadline_ms=9000) for text in "ab"]
        begun = [handler.start(call, told.append) for call in calls]
        with pytest.raises(Unprocessable):
            handler.start(Call(to="role/it", fields={}, deadline_ms=9000), told.append)
        counts = [serving.active]
        begun[1].cancel()
        begun[1].cancel()
        counts.append(serving.active)
        is_idle = await serving.wait_idle(5)
        assert serving.counting(local.handle).start(calls[0], told.append) is None
        return counts, is_idle, serving.active, [answer.fields for answer in told]

    assert run_virtual(scenario()) == ([2, 1], True, 0, [{"text": "A"}])


def test_an_unknown_role_is_not_found_at_once():
    """As for `run_role`."""

    async def scenario():
        with pytest.raises(NotFound):
            world()["n0"].pipelines.start_role("other", {}, request(), print)

    run_virtual(scenario())

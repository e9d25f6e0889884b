"""Stages run as early as they can, errors and closed streams stop all, and the trace tells."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import DeadlineExceeded, NotFound, RoleError, Unprocessable
from mesh.flow.pipeline import FieldReady, Outcome, TokenPiece
from mesh.roles.base import Piece, Role, StreamRole, Whole
from mesh.settings.topology import Pipeline, Stage
from tests.support.flow import World, request
from tests.support.virtual_loop import run_virtual


class Add(Role):
    """Adds its option to n."""

    options = {"by": 1}  # noqa: RUF012

    def run(self, batch):
        return [{"n": item["n"] + self.context.options["by"]} for item in batch]


class Sum(Role):
    """Adds two numbers."""

    def run(self, batch):
        return [{"sum": item["a"] + item["b"]} for item in batch]


class Breaks(Role):
    """Fails."""

    def run(self, batch):
        raise ValueError("broken")


class Nothing(Role):
    """Gives nothing."""

    def run(self, batch):
        return [{} for _ in batch]


class Spell(StreamRole):
    """Spells a number, digit by digit."""

    closed = 0

    async def stream(self, item, request):
        try:
            for digit in str(item["n"]):
                await asyncio.sleep(0.1)
                yield Piece({"word": digit, "secret": "x"})
            yield Whole({"word": str(item["n"])}, 0.0, 100.0, 1)
        finally:
            Spell.closed += 1


DIAMOND = Pipeline(
    input=("x",),
    output=("z",),
    stages=(
        Stage("left", "add", {"n": "x"}, {"n": "l"}),
        Stage("right", "add10", {"n": "x"}, {"n": "r"}),
        Stage("join", "sum", {"a": "l", "b": "r"}, {"sum": "z"}),
    ),
)


def world(**roles):
    made = World()
    made.role("add", Add, "n0", run_s=1.0)
    made.role("add10", Add, "n1", run_s=2.0, options={"by": 10})
    made.role("sum", Sum, "n2", run_s=0.5)
    made.role("spell", Spell, "n2")
    made.role("breaks", Breaks, "n1", run_s=0.5)
    made.role("nothing", Nothing, "n1")
    made.pipeline("diamond", DIAMOND)
    return made


def only(*stages, input=("x",), output=()):
    return Pipeline(input=input, output=output, stages=stages)


def test_independent_stages_run_at_once():
    async def scenario():
        outcome = await world()["n0"].pipelines.run("diamond", {"x": 1}, request("id"))
        return outcome, asyncio.get_running_loop().time()

    outcome, now_s = run_virtual(scenario())
    assert outcome.fields == {"z": 13}
    assert now_s == pytest.approx(2.5)  # max(1, 2) + 0.5
    assert outcome.trace["id"] == "id"
    assert outcome.trace["total_ms"] == pytest.approx(2500.0)
    assert [(s["name"], s["role"], s["node"], s["ran_ms"]) for s in outcome.trace["stages"]] == [
        ("left", "add", "n0", 1000.0),
        ("right", "add10", "n1", 2000.0),
        ("join", "sum", "n2", 500.0),
    ]


def test_many_requests_share_batches():
    async def scenario():
        made = world()
        runs = [made["n0"].pipelines.run("diamond", {"x": n}, request(str(n))) for n in range(8)]
        outcomes = await asyncio.gather(*runs)
        return [o.fields["z"] for o in outcomes], len(made.lanes["sum", "n2"].batches)

    assert run_virtual(scenario()) == ([2 * n + 11 for n in range(8)], 1)


def test_the_first_error_cancels_the_rest_on_every_node():
    async def scenario():
        made = world()
        broken = only(
            Stage("slow", "add10", {"n": "x"}, {"n": "r"}),
            Stage("bad", "breaks", {"n": "x"}, {"n": "l"}),
        )
        made.pipeline("broken", broken)
        busy = asyncio.create_task(made["n1"].local.call("add10", {"n": 1}, request()))
        await asyncio.sleep(0.1)
        with pytest.raises(RoleError, match="broken"):
            await made["n0"].pipelines.run("broken", {"x": 1}, request())
        now_s = asyncio.get_running_loop().time()
        left = made["n1"].local.statistics()["add10"]["queued"]
        await busy
        return now_s, left, len(made.lanes["add10", "n1"].batches)

    now_s, left, batches = run_virtual(scenario())
    assert now_s == pytest.approx(0.6)
    assert (left, batches) == (0, 1)


def test_the_deadline_covers_all_stages():
    async def scenario():
        with pytest.raises(DeadlineExceeded):
            await world()["n0"].pipelines.run("diamond", {"x": 1}, request(in_s=2.2))
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == pytest.approx(2.2, abs=0.021)


@pytest.mark.parametrize(
    ("name", "fields", "error", "words"),
    [
        ("diamond", {}, Unprocessable, "missing 'x'"),
        ("diamond", {"x": 1, "y": 2}, Unprocessable, "unknown 'y'"),
        ("square", {}, NotFound, "no pipeline 'square'; there are diamond"),
    ],
)
def test_wrong_requests_are_told_what_is_expected(name, fields, error, words):
    async def scenario():
        with pytest.raises(error, match=words):
            await world()["n0"].pipelines.run(name, fields, request())

    run_virtual(scenario())


def test_a_field_that_a_role_does_not_give_is_the_roles_error():
    async def scenario():
        made = world()
        made.pipeline("p", only(Stage("s", "nothing", {"n": "x"}, {"n": "y"}), output=("y",)))
        with pytest.raises(RoleError, match="stage 's' promises field 'n' of role 'nothing'"):
            await made["n0"].pipelines.run("p", {"x": 1}, request())

    run_virtual(scenario())


def test_a_role_alone_is_a_pipeline_of_one_stage():
    async def scenario():
        return await world()["n0"].pipelines.run_role("add10", {"n": 1}, request("id"))

    outcome = run_virtual(scenario())
    assert outcome.fields == {"n": 11}
    assert [s["node"] for s in outcome.trace["stages"]] == ["n1"]


SPELLED = only(
    Stage("add", "add", {"n": "x"}, {"n": "y"}),
    Stage("spell", "spell", {"n": "y"}, {"word": "w"}),
    Stage("more", "add10", {"n": "y"}, {"n": "z"}),
    output=("w", "z"),
)


async def collect(stream):
    return [part async for part in stream]


def test_a_stream_tells_pieces_fields_and_the_outcome_in_order():
    async def scenario():
        made = world()
        made.pipeline("p", SPELLED)
        return await collect(made["n0"].pipelines.stream("p", {"x": 41}, request()))

    parts = run_virtual(scenario())
    assert parts[:-1] == [
        TokenPiece("w", "4"),
        TokenPiece("w", "2"),
        FieldReady("w", "42"),
        FieldReady("z", 52),
    ]
    assert parts[-1].fields == {"w": "42", "z": 52}


def test_closing_a_stream_cancels_every_stage():
    async def scenario():
        made = world()
        made.pipeline("p", SPELLED)
        before = Spell.closed
        stream = made["n0"].pipelines.stream("p", {"x": 41}, request())
        await anext(stream)
        await stream.aclose()
        await asyncio.sleep(0)
        figures = made["n2"].local.statistics()["spell"]
        return Spell.closed - before, figures["running"], len(asyncio.all_tasks())

    assert run_virtual(scenario()) == (1, 0, 1)


def test_a_slow_reader_slows_the_role_and_loses_nothing():
    async def scenario():
        made = world()
        made.pipeline("p", SPELLED)
        digits = []
        async for part in made["n0"].pipelines.stream("p", {"x": 10**200}, request(in_s=900)):
            await asyncio.sleep(1.0)
            if isinstance(part, TokenPiece):
                digits.append(part.text)
        return "".join(digits)

    assert run_virtual(scenario()) == str(10**200 + 1)


def test_an_error_in_a_stream_comes_after_what_was_told():
    async def scenario():
        made = world()
        broken = only(
            Stage("spell", "spell", {"n": "x"}, {"word": "w"}),
            Stage("bad", "breaks", {"n": "x"}, {"n": "y"}),
            output=("w",),
        )
        made.pipeline("p", broken)
        seen = []

        async def read():
            async for part in made["n0"].pipelines.stream("p", {"x": 10**9}, request()):
                seen.append(part)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(RoleError):
            await read()
        return seen, len(asyncio.all_tasks())

    seen, tasks = run_virtual(scenario())
    assert 3 <= len(seen) <= 5
    assert tasks == 1


def test_a_role_alone_can_be_streamed():
    async def scenario():
        return await collect(world()["n0"].pipelines.stream_role("spell", {"n": 7}, request()))

    parts = run_virtual(scenario())
    assert parts[0] == TokenPiece("word", "7")
    assert FieldReady("word", "7") in parts
    assert isinstance(parts[-1], Outcome)


def test_a_request_keeps_the_topology_that_it_began_with():
    async def scenario():
        made = world()
        task = asyncio.create_task(made["n0"].pipelines.run("diamond", {"x": 1}, request()))
        await asyncio.sleep(0.5)
        made.pipeline("diamond", only(Stage("s", "add", {"n": "x"}, {"n": "z"}), output=("z",)))
        after = await made["n0"].pipelines.run("diamond", {"x": 1}, request())
        return (await task).fields, after.fields

    assert run_virtual(scenario()) == ({"z": 13}, {"z": 2})

"""Roles load in the background, answer when ready, and say why they cannot."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mesh.errors import NoOwner, Overloaded, RoleError, Unprocessable
from mesh.flow.local import LocalRoles
from mesh.roles.base import Piece, Role, StreamRole, Whole
from mesh.settings.schema import Compute, Limits
from mesh.settings.topology import Model
from mesh.settings.topology import Role as Spec
from mesh.wire.messages import Answer, Call
from tests.support.flow import World, request
from tests.support.virtual_loop import run_virtual


class Echo(Role):
    """Gives back its item and what it was built with."""

    options = {"tone": "low"}  # noqa: RUF012
    closed = 0

    def run(self, batch):
        return [{**item, **self.context.options, "model": self.context.model} for item in batch]

    def close(self):
        Echo.closed += 1


class Unloadable(Role):
    """Cannot load."""

    def load(self):
        raise OSError("no such file")


class Endless(StreamRole):
    """Streams, and ends badly as its item says."""

    async def stream(self, item, request):
        yield Piece({"t": "a"})
        if item["how"] == "raise":
            raise ValueError("broken")
        if item["how"] == "hang":
            await asyncio.sleep(1e6)
        if item["how"] == "whole":
            yield Whole({"t": "a"}, 1.0, 2.0, 3)


def local(**kwargs):
    return LocalRoles(node="n0", data=Path("var"), compute=Compute(), limits=Limits(), **kwargs)


def spec(kind, **kwargs):
    return Spec(kind=f"{kind.__module__}:{kind.__qualname__}", nodes=("n0",), **kwargs)


def load(roles, **models):
    async def scenario():
        changes = []
        made = local(changed=lambda: changes.append(made.ready))
        await made.load(roles, {name: Model(source) for name, source in models.items()})
        answers = {}
        for name in made.ready:
            loop_s = asyncio.get_running_loop().time()
            answers[name] = await made.call(name, {"n": 1}, request("r", 9.0))
            assert asyncio.get_running_loop().time() - loop_s < 5
        figures = made.statistics()
        await made.aclose()
        return changes, answers, figures

    return asyncio.run(scenario())


def test_roles_load_with_options_and_model_and_become_ready_one_by_one():
    roles = {
        "a": spec(Echo, model="m", options={"tone": "high"}),
        "b": spec(Echo, lane="inline"),
    }
    closed = Echo.closed
    changes, answers, _ = load(roles, m="path:/m")
    assert changes == [("a",), ("a", "b")]
    assert answers["a"].fields == {"n": 1, "tone": "high", "model": "path:/m"}
    assert answers["b"].fields == {"n": 1, "tone": "low", "model": ""}
    assert Echo.closed == closed + 2


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (spec(Unloadable), "no such file"),
        (spec(Echo, options={"tonne": 1}), "roles.bad: unknown key 'tonne'; Echo knows tone"),
        (Spec(kind="embeed"), "did you mean 'embed'?"),
        (spec(Echo, model="m"), "'m' is not in"),
        (spec(Echo, lane="rocket"), "found 'rocket'"),
    ],
)
def test_a_role_that_cannot_load_says_why_and_stops_no_other(bad, why):
    _, answers, figures = load({"bad": bad, "good": spec(Echo)})
    assert set(answers) == {"good"}
    assert figures["bad"]["state"] == "failed"
    assert why in figures["bad"]["why"]
    assert 1 == figures["bad"]["load_failures"]


def test_a_role_that_is_not_here_has_no_owner():
    async def scenario():
        made = local()
        made.failed["x"] = "no such file"
        for role, why in [("x", "could not be loaded"), ("y", "is not served")]:
            with pytest.raises(NoOwner, match=why):
                await made.call(role, {}, request())

    run_virtual(scenario())


def test_an_unloaded_role_is_gone():
    async def scenario():
        made = World()
        made.role("echo", Echo, "n0")
        await made["n0"].local.unload("echo")
        with pytest.raises(NoOwner):
            await made["n0"].local.call("echo", {}, request())
        return made.lanes["echo", "n0"].is_closed

    assert run_virtual(scenario())


class Sent:
    """The caller's end, as a handler sees it."""

    def __init__(self):
        self.pieces = []

    async def send(self, piece):
        self.pieces.append(piece.fields)


@pytest.mark.parametrize("wants_pieces", [False, True])
def test_a_peer_is_answered_in_the_way_that_it_wants(wants_pieces):
    async def scenario():
        made, sent = World(), Sent()
        made.role("s", Endless, "n0")
        call = Call(to="role/s", fields={"how": "whole"}, wants_pieces=wants_pieces, priority=9)
        return await made["n0"].local.handle(call, sent), sent.pieces

    answer, pieces = run_virtual(scenario())
    assert isinstance(answer, Answer)
    assert answer.fields == {"t": "a"}
    assert (answer.timing.queued_ms, answer.timing.ran_ms, answer.timing.batch_size) == (1, 2, 3)
    assert pieces == ([{"t": "a"}] if wants_pieces else [])


def test_a_peers_deadline_counts_from_its_call():
    async def scenario():
        made, loop = World(), asyncio.get_running_loop()
        made.role("s", Endless, "n0")
        await asyncio.sleep(5)
        call = Call(to="role/s", fields={"how": "hang"}, deadline_ms=500)
        with pytest.raises(Exception, match="deadline"):
            await made["n0"].local.handle(call, Sent())
        return loop.time()

    assert run_virtual(scenario()) == 5.5


@pytest.mark.parametrize(
    ("how", "words"), [("raise", "ValueError: broken"), ("stop", "without an answer")]
)
def test_a_stream_that_ends_badly_is_the_roles_error(how, words):
    async def scenario():
        made = World()
        made.role("s", Endless, "n0")
        with pytest.raises(RoleError, match=words):
            await made["n0"].local.call("s", {"how": how}, request())
        return made["n0"].local.statistics()["s"]["running"]

    assert run_virtual(scenario()) == 0


def test_streams_in_flight_are_limited():
    async def scenario():
        made = World()
        made.role("s", Endless, "n0", queue_max=1)
        here = made["n0"].local
        busy = asyncio.create_task(here.call("s", {"how": "hang"}, request()))
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded, match="1 items in flight"):
            await here.call("s", {"how": "whole"}, request())
        assert {"overloaded": 1} == here.statistics()["s"]["dropped"]
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        return (await here.call("s", {"how": "whole"}, request())).fields

    assert run_virtual(scenario()) == {"t": "a"}


class Typed(Role):
    """Takes a text."""

    takes = {"text": str}  # noqa: RUF012


def test_a_wrong_item_never_reaches_a_batch():
    async def scenario():
        made = World()
        made.role("t", Typed, "n0")
        with pytest.raises(Unprocessable, match="missing field 'text'"):
            await made["n0"].local.call("t", {}, request())
        return made.lanes["t", "n0"].batches

    assert run_virtual(scenario()) == []


def test_a_role_can_ask_another_role_of_the_mesh():
    async def scenario():
        made = World()
        made.role("echo", Echo, "n1")
        return await made["n0"].local._ask("echo", {"n": 1}, request())

    assert run_virtual(scenario())["n"] == 1


def test_a_role_cannot_ask_where_nobody_listens():
    async def scenario():
        with pytest.raises(NoOwner, match="cannot ask"):
            await local()._ask("echo", {}, request())

    run_virtual(scenario())

"""A stream goes on at another node where its own fell, and nobody sees the seam."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from mesh.errors import ConnectionLost, Unreachable
from mesh.flow import router
from mesh.gossip.member import Status
from tests.support.flow import Fault, World, request
from tests.support.roles import Letters
from tests.support.virtual_loop import run_virtual


class Effects(Letters):
    """As `Letters`, but may not run twice."""

    idempotent = False


def world(kind=Letters, nodes=("n1", "n2")):
    made = World(("n0", "n1", "n2", "n3"))
    made.role("r", kind, *nodes, route="round-robin")
    return made


async def streamed(made, text="abcdef"):
    async with aclosing(made["n0"].router.stream("r", {"text": text}, request())) as parts:
        return [part async for part in parts]


async def watched(made, main):
    watch = asyncio.create_task(made["n0"].router.run())
    try:
        return await main
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


@pytest.mark.parametrize("at", range(7))
def test_a_lost_node_costs_no_piece_and_doubles_none(at):
    async def scenario():
        made = world()
        made.network.faults["n1:1"] = Fault(pieces_max=at)
        return await streamed(made), made["n0"].router.statistics()["resumed"]

    parts, resumed = run_virtual(scenario())
    assert [*"abcdef", "abcdef"] == [part.fields["text"] for part in parts]
    assert (parts[-1].node, resumed) == ("n2", int(at > 0))


def test_progress_forgives_earlier_failures():
    """Each node dies again and again, but something was given in between."""

    async def scenario():
        made = world()
        made.network.faults["n1:1"] = Fault(pieces_max=1)
        made.network.faults["n2:1"] = Fault(pieces_max=1)
        return await streamed(made)

    assert [*"abcdef", "abcdef"] == [part.fields["text"] for part in run_virtual(scenario())]


def test_without_progress_attempts_end():
    async def scenario():
        made = world()
        made.network.faults["n1:1"] = Fault(pieces_max=0)
        made.network.faults["n2:1"] = Fault(pieces_max=0)
        await streamed(made)

    with pytest.raises(ConnectionLost):
        run_virtual(scenario())


def test_what_has_effects_is_not_begun_twice():
    async def scenario():
        made = world(Effects)
        made.network.faults["n1:1"] = Fault(pieces_max=2)
        await streamed(made)

    with pytest.raises(ConnectionLost):
        run_virtual(scenario())


def test_a_stream_too_long_to_remember_ends_with_its_node(monkeypatch):
    monkeypatch.setattr(router, "GIVEN_MAX", 2)

    async def scenario():
        made = world()
        made.network.faults["n1:1"] = Fault(pieces_max=4)
        await streamed(made)

    with pytest.raises(ConnectionLost):
        run_virtual(scenario())


@pytest.mark.parametrize("cause", ["suspect", "quiet"])
def test_a_silent_node_is_left_after_a_moment_of_doubt(cause):
    async def scenario():
        made, loop = world(), asyncio.get_running_loop()
        made.network.faults["n1:1"] = Fault(stalls_after=3)

        def doubt():
            if cause == "quiet":
                made.network.quiet.add("n1:1")
            else:
                made.tell(n1=Status.SUSPECT)

        loop.call_later(2.0, doubt)
        return await watched(made, streamed(made)), loop.time()

    parts, ended_s = run_virtual(scenario())
    assert [*"abcdef", "abcdef"] == [part.fields["text"] for part in parts]
    assert 2.0 < ended_s <= 2.0 + router.QUIET_LOOK_S + 0.5 + 0.3 + 1e-6


def test_long_streams_do_not_wait_for_each_other_at_a_node_that_is_back():
    """Each first piece lets the next one try, and the third opens the way to all."""

    async def scenario():
        made = world(nodes=("n1",))
        made.network.faults["n1:1"] = Fault(before=Unreachable())
        for _ in range(5):
            with pytest.raises(Unreachable):
                await streamed(made)
        made.network.faults.clear()
        began_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(streamed(made, "a" * 50) for _ in range(8)))
        edge = made["n0"].router.statistics()["edges"]["r"]["n1:1"]
        return asyncio.get_running_loop().time() - began_s, edge["breaker"], edge["in_flight"]

    took_s, state, in_flight = run_virtual(scenario())
    assert took_s <= 1.2 + 3 * 0.15 + 5.0  # the pause, three tries, and a stream of five seconds
    assert (state, in_flight) == ("closed", 0)


def test_a_suspect_that_goes_on_answering_keeps_its_stream():
    async def scenario():
        made, loop = world(), asyncio.get_running_loop()
        loop.call_later(0.25, lambda: made.tell(n1=Status.SUSPECT))
        return await watched(made, streamed(made))

    assert "n1" == run_virtual(scenario())[-1].node


def test_a_quiet_node_is_asked_only_if_there_is_no_other():
    async def scenario():
        made = world()
        made.network.quiet.add("n1:1")

        async def main():
            await asyncio.sleep(1.0)
            return [(await streamed(made))[-1].node for _ in range(4)]

        return await watched(made, main())

    assert ["n2"] * 4 == run_virtual(scenario())

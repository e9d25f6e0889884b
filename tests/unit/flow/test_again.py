"""Where every node failed, and time is left, those but the last are asked again."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from random import Random

import pytest

from mesh.errors import ConnectionLost, Overloaded, PeerError, Unreachable
from mesh.policy.attempts import ATTEMPTS_MAX, BACKOFF_S
from mesh.policy.breaker import FAILURES_MAX
from mesh.roles.base import Role
from tests.support.flow import Fault, World, request
from tests.support.roles import Letters
from tests.support.virtual_loop import run_virtual

WAIT_S = 2.0 * BACKOFF_S  # the longest before a third attempt


class Upper(Role):
    """Shouts."""

    def run(self, batch):
        return [{"text": item["text"].upper()} for item in batch]


class Once(Upper):
    """May not run an item twice."""

    idempotent = False


class Fresh(Letters):
    """Begins anew only."""

    resumable = False


def world(kind=Upper, nodes=("n1", "n2"), **faults):
    made = World(("n0", "n1", "n2", "n3"))
    made.role("r", kind, *nodes, route="round-robin")
    made.network.faults.update({f"{node}:1": fault for node, fault in faults.items()})
    return made


def once(error=ConnectionLost):
    """A node that loses the next call, and only that."""
    return Fault(before=error(), times=1)


async def asked(made, **how):
    """Return how a call ended, when, and who was asked."""
    (end,) = await asyncio.gather(
        made["n0"].router.call("r", {"text": "a"}, request(**how)), return_exceptions=True
    )
    return end, asyncio.get_running_loop().time(), made.network.calls


async def streamed(made):
    async with aclosing(made["n0"].router.stream("r", {"text": "abcdef"}, request())) as parts:
        return [part async for part in parts]


@pytest.mark.parametrize("error", [ConnectionLost, Unreachable])
def test_two_nodes_that_fail_once_answer_in_the_end(error):
    async def scenario():
        return await asked(world(n1=once(error), n2=once(error)))

    answered, ended_s, calls = run_virtual(scenario())
    assert (answered.fields, answered.node, answered.attempts) == ({"text": "A"}, "n1", 3)
    assert calls == ["n1:1", "n2:1", "n1:1"]
    assert 0.1 < ended_s <= 0.1 + WAIT_S + 1e-9


def test_attempts_end_soon_whatever_is_lost():
    """An item that ends every process which runs it does not go round."""

    async def scenario():
        made = world(n1=Fault(after=ConnectionLost()), n2=Fault(after=ConnectionLost()))
        error, _, calls = await asked(made)
        return error, calls, made["n0"].router.statistics()["failovers"]

    error, calls, failovers = run_virtual(scenario())
    assert isinstance(error, ConnectionLost)
    assert (len(calls), failovers) == (ATTEMPTS_MAX, ATTEMPTS_MAX - 1)


@pytest.mark.parametrize("error", [ConnectionLost, Unreachable])
def test_a_lone_node_that_fails_is_told_of_at_once(error):
    async def scenario():
        return await asked(world(nodes=("n1",), n1=once(error)))

    end, ended_s, calls = run_virtual(scenario())
    assert isinstance(end, error)
    assert (ended_s, calls) == (0.0, ["n1:1"])


def test_a_third_node_is_asked_before_one_that_failed():
    async def scenario():
        return await asked(world(nodes=("n1", "n2", "n3"), n1=once(), n3=once()))

    answered, _, calls = run_virtual(scenario())
    assert (answered.node, calls) == ("n2", ["n1:1", "n3:1", "n2:1"])


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Once, Unreachable()),  # may not run twice
        (Upper, Overloaded("full")),  # has said no
        (Upper, Unreachable("x", node="n9")),  # lost a node of its own
    ],
)
def test_who_is_not_asked_again(kind, error):
    async def scenario():
        return await asked(world(kind, n1=Fault(before=error), n2=Fault(before=error)))

    end, _, calls = run_virtual(scenario())
    assert (end, sorted(calls)) == (error, ["n1:1", "n2:1"])


def test_nobody_is_asked_again_who_could_not_answer_in_time():
    """The error says what happened, not that the time is over."""

    async def scenario():
        lost = Fault(before=Unreachable())
        return await asked(world(n1=lost, n2=lost), in_s=0.006)

    end, ended_s, calls = run_virtual(scenario())
    assert isinstance(end, Unreachable)
    assert (ended_s, len(calls)) == (0.0, 2)


def test_a_node_whose_breaker_is_open_is_waited_for():
    async def scenario():
        made = world(n1=once(), n2=once())
        breaker = made["n0"].router._reach.edge("r", "n1:1").breaker
        for _ in range(FAILURES_MAX - 1):
            breaker.failed(0.0, Random(0))
        return await asked(made)

    answered, ended_s, calls = run_virtual(scenario())
    assert (answered.node, calls) == ("n1", ["n1:1", "n2:1", "n1:1"])
    assert 0.8 < ended_s - 0.1 < 1.2 + WAIT_S


def test_a_stream_returns_to_the_node_where_it_began():
    """Two nodes fell one after the other, each for a moment: no piece is lost or doubled."""

    async def scenario():
        made = world(Letters, n1=Fault(pieces_max=2, times=1), n2=once())
        return await streamed(made), made.network.calls

    parts, calls = run_virtual(scenario())
    assert [*"abcdef", "abcdef"] == [part.fields["text"] for part in parts]
    assert calls == ["n1:1", "n2:1", "n1:1"]


def test_a_stream_that_cannot_go_on_returns_only_before_its_first_piece():
    async def scenario():
        parts = await streamed(world(Fresh, n1=once(), n2=once()))
        with pytest.raises(PeerError):
            await streamed(world(Fresh, n1=Fault(pieces_max=1), n2=Fault(pieces_max=1)))
        return parts

    assert [*"abcdef", "abcdef"] == [part.fields["text"] for part in run_virtual(scenario())]

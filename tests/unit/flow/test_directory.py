"""Only nodes that live, take work and have loaded a role are its endpoints."""

from __future__ import annotations

import asyncio

import pytest

from mesh.flow.directory import Directory
from mesh.gossip.member import Status
from mesh.settings.topology import Mesh, Needs, Topology
from mesh.settings.topology import Role as Spec
from tests.support.flow import FakeMembership, member
from tests.support.virtual_loop import run_virtual

LABELLED = Needs(labels=("gpu",))
TOPOLOGY = Topology(mesh=Mesh(name="t"), roles={"r": Spec(kind="k", nodes=("n0", "n1", "n9"))})


async def directory(*members):
    membership = FakeMembership("n0")
    membership.set(members)
    return Directory(membership, lambda: TOPOLOGY), membership


def names(members, role="r"):
    async def scenario():
        return [(e.name, e.suspect) for e in (await directory(*members))[0].endpoints(role)]

    return run_virtual(scenario())


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (member("n1", ["r"]), [("n0", False), ("n1", False)]),
        (member("n1", ["r"], status=Status.SUSPECT), [("n0", False), ("n1", True)]),
        (member("n1", ["r"], status=Status.DEAD), [("n0", False)]),
        (member("n1", ["r"], status=Status.LEFT), [("n0", False)]),
        (member("n1", ["r"], draining=True), [("n0", False)]),
        (member("n1", ["other"]), [("n0", False)]),
    ],
)
def test_who_counts(other, expected):
    assert names([member("n0", ["r"]), other]) == expected


@pytest.mark.parametrize("order", [1, -1])
def test_the_newest_boot_of_a_name_counts(order):
    async def scenario():
        both = [member("n1", ["r"], boot=1), member("n1", ["r"], boot=2)][::order]
        made, _ = await directory(member("n0"), *both)
        return [e.address for e in made.endpoints("r")]

    assert run_virtual(scenario()) == ["n1:2"]


def test_a_restarted_node_that_has_not_loaded_yet_does_not_fall_back_to_its_old_self():
    assert names([member("n0"), member("n1", ["r"], boot=1), member("n1", [], boot=2)]) == []


def test_changes_are_seen_and_only_changes_cost():
    async def scenario():
        made, membership = await directory(member("n0", ["r"]))
        first, ring = made.endpoints("r"), made.ring("r")
        assert made.endpoints("r") is first
        assert made.ring("r") is ring
        assert first[0].is_self
        membership.set([member("n0", ["r"]), member("n1", ["r"], weight=3.0)])
        return [e.name for e in made.endpoints("r")], set(made.ring("r").owners("k", 2))

    assert run_virtual(scenario()) == (["n0", "n1"], {"n0", "n1"})


def test_what_is_missing_is_explained():
    async def scenario():
        made, _ = await directory(
            member("n0"),
            member("n1", status=Status.DEAD),
        )
        return made.explain("r"), made.explain("x")

    expected, unknown = run_virtual(scenario())
    assert expected == "expected n0 (role not ready), n1 (dead), n9 (never seen)"
    assert unknown == "the topology has no such role"


def test_who_is_to_have_a_role_that_the_ring_gives_is_explained():
    """So that a caller waits while it is loaded, and reads why where nobody can have it."""
    roles = {"r": Spec(kind="k", replicas=1), "big": Spec(kind="k", replicas=1, needs=LABELLED)}

    async def scenario():
        membership = FakeMembership("n0")
        membership.set([member("n0")])
        made = Directory(membership, lambda: Topology(mesh=Mesh(name="t"), roles=roles))
        return [(made.explain(role), made.is_coming(role)) for role in roles]

    given, needy = run_virtual(scenario())
    assert given == ("expected n0 (role not ready)", True)
    assert needy == ("no node that is here has the labels and the memory that it needs", False)


def test_a_change_wakes_who_waits():
    async def scenario():
        made, membership = await directory(member("n0"))
        task = asyncio.create_task(made.wait_change(made.version))
        await asyncio.sleep(1)
        assert not task.done()
        membership.set([])
        return await task, made.version

    assert run_virtual(scenario()) == (2, 2)

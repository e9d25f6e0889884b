"""A node loads before it tells, and drops a role only once others have it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from mesh.errors import SetupError
from mesh.flow import local
from mesh.flow.duties import NOTICE_S, Duties
from mesh.flow.local import LINGER_S, LocalRoles
from mesh.roles.base import Context
from mesh.settings.schema import Compute, Join, Limits
from mesh.settings.topology import Mesh, Needs, Role, Topology
from tests.support.flow import FakeLane, FakeMembership, member, request
from tests.support.roles import Shout
from tests.support.virtual_loop import run_virtual

FINISH_S = 20.0


@pytest.fixture(autouse=True)
def _lanes(monkeypatch):
    monkeypatch.setattr(local, "open_lane", lambda _kind, role: FakeLane(role, 0.001))


def role(**more) -> Role:
    options = more.pop("options", {})
    fixed = {"nodes": ("n0",)} | more
    return Role(kind="tests.support.roles:Shout", lane="inline", options=options, **fixed)


class Made:
    """The duties of n0 in a mesh of three."""

    def __init__(self, **roles: Role) -> None:
        self.topology = Topology(mesh=Mesh(name="t"), roles=roles)
        self.membership = FakeMembership("n0")
        self.others: dict[str, list[str]] = {"n1": [], "n2": []}
        self.is_leaving = False
        clock = asyncio.get_running_loop().time
        self.local = LocalRoles(
            node="n0", data=Path("var"), compute=Compute(), limits=Limits(),
            changed=self.tell, clock=clock,
        )  # fmt: skip
        self.tell()
        self.duties = Duties(
            "n0", lambda: self.topology, self.local, self.membership, Join(), FINISH_S, clock=clock
        )

    def tell(self) -> None:
        others = [member(name, roles) for name, roles in self.others.items()]
        me = member("n0", self.local.ready, draining=self.is_leaving)
        self.membership.set([me, *others])

    def change(self, **roles: Role) -> None:
        self.topology = Topology(mesh=self.topology.mesh, roles=roles)
        self.tell()

    async def shout(self) -> str:
        return (await self.local.call("r", {"text": "a"}, request())).fields["text"]

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.duties.run())
        await asyncio.sleep(0.1)
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_role_that_moves_stays_until_its_new_node_has_it_and_lingers():
    async def scenario():
        made = Made(r=role())
        async with made.running():
            assert ("r",) == made.local.ready
            made.change(r=role(nodes=("n1",)))
            await asyncio.sleep(5.0)
            assert ("r",) == made.local.ready
            made.others["n1"] = ["r"]
            made.tell()
            await asyncio.sleep(0.1)
            assert () == made.local.ready
            assert "A" == await made.shout()  # a door that has not heard yet
            await asyncio.sleep(LINGER_S + 1.5)
            assert made.local._parting == []

    run_virtual(scenario())


def test_a_role_that_comes_back_in_time_is_not_loaded_again():
    async def scenario():
        made = Made(r=role())
        async with made.running():
            first = made.local._served["r"]
            made.change()
            await asyncio.sleep(0.1)
            made.change(r=role())
            await asyncio.sleep(0.1)
            return made.local._served["r"] is first

    assert run_virtual(scenario())


def test_a_role_that_is_made_otherwise_now_is_replaced_without_a_gap():
    async def scenario():
        made = Made(r=role())
        async with made.running():
            first = made.local._served["r"]
            made.change(r=role(options={"sleep_s": 0.001}))
            for _ in range(20):
                assert "A" == await made.shout()
                await asyncio.sleep(0.01)
            return made.local._served["r"] is first

    assert not run_virtual(scenario())


def test_only_where_it_is_has_changed_so_nothing_is_loaded():
    async def scenario():
        made = Made(r=role())
        async with made.running():
            first = made.local._served["r"]
            made.change(r=role(nodes=("n0", "n1"), route="ring", key="text"))
            await asyncio.sleep(0.1)
            return made.local._served["r"] is first

    assert run_virtual(scenario())


def bad() -> Role:
    return Role(kind="tests.support.roles:Unloadable", lane="inline", nodes=("n0",))


def test_a_role_that_cannot_load_ends_the_start_but_not_a_running_node():
    async def scenario():
        with pytest.raises(SetupError):
            await Made(r=bad()).duties.run()
        made = Made(r=role())
        async with made.running():
            made.change(r=bad())
            await asyncio.sleep(3.0)
            assert "A" == await made.shout()
            return made.local.failed["r"]

    assert "not there" in run_virtual(scenario())


@pytest.mark.parametrize(
    ("heir", "labels", "waits_s"),
    [(["r"], (), NOTICE_S), ([], (), 10.0), ([], ("of nobody else",), NOTICE_S)],
)
def test_who_leaves_hands_over_first(heir, labels, waits_s):
    """Its roles are served elsewhere, or nobody else may have them, or its time is up."""

    async def scenario():
        spec = role(nodes=(), replicas=1, needs=Needs(labels=labels))
        made, loop = Made(r=spec), asyncio.get_running_loop()
        made.others = {"n1": [], "n2": heir}
        made.local.add("r", _shout(), made.topology.roles["r"])
        made.is_leaving = True
        made.tell()
        began_s = loop.time()
        await made.duties.hand_over(began_s + 10.0)
        return loop.time() - began_s

    assert waits_s == pytest.approx(run_virtual(scenario()))


def _shout() -> Shout:
    return Shout(Context(role="r", options={"sleep_s": 0.0}))

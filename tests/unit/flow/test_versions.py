"""A share of the calls goes to another version, and the answer says which one it was."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from mesh.gossip.member import Status
from mesh.roles.base import Role
from mesh.settings.topology import Version
from tests.support.flow import World, request
from tests.support.virtual_loop import run_virtual


class Old(Role):
    """Answers as it always did."""

    def run(self, batch):
        return [{"by": "old"} for _ in batch]


class New(Role):
    """Answers anew; not always."""

    def run(self, batch):
        return [ValueError("no") if item["n"] == 0 else {"by": "new"} for item in batch]


def world(share=0.5, *, shadow=False, **spec):
    made = World()
    made.role("new", New, "n2")
    versions = {"v2": Version("new", share, shadow)}
    made.role("r", Old, "n1", versions=versions, **spec)
    return made


async def ask(made, n, id=None):
    return await made["n0"].pipelines.run_role("r", {"n": n}, request(id or f"id{n}"))


def test_calls_are_split_and_the_trace_says_how():
    async def scenario():
        made = world()
        outcomes = await asyncio.gather(*(ask(made, n) for n in range(1, 201)))
        return Counter((o.fields["by"], o.trace["stages"][0].get("version")) for o in outcomes)

    seen = run_virtual(scenario())
    assert set(seen) == {("old", None), ("new", "v2")}
    assert min(seen.values()) > 70


def test_a_key_stays_with_its_version():
    async def scenario():
        made = world(key="n")
        return {
            n: {(await ask(made, n, f"{n}{m}")).fields["by"] for m in range(4)}
            for n in range(1, 20)
        }

    assert all(len(seen) == 1 for seen in run_virtual(scenario()).values())


def test_a_version_that_nobody_serves_leaves_its_share_to_the_role():
    async def scenario():
        made = world(share=1.0)
        first = (await ask(made, 1)).fields["by"]
        made.tell(n2=Status.DEAD)
        return first, (await ask(made, 1)).fields["by"]

    assert run_virtual(scenario()) == ("new", "old")


def test_a_shadow_is_called_and_never_answers():
    async def scenario():
        made = world(share=1.0, shadow=True)
        answers = Counter([(await ask(made, n)).fields["by"] for n in range(3)])
        await asyncio.sleep(1)
        ran = sum(len(batch) for batch in made.lanes["new", "n2"].batches)
        return answers, ran, made["n0"].router.statistics()["shadows"]

    answers, ran, figures = run_virtual(scenario())
    assert (answers, ran) == ({"old": 3}, 3)
    assert figures == {"answered": 2, "failed": 1, "skipped": 0, "in_flight": 0}


def test_shadows_are_limited_and_end_with_the_router():
    async def scenario():
        made = world(share=1.0, shadow=True)
        watch = asyncio.create_task(made["n0"].router.run())
        made.lanes["new", "n2"].run_s = 1e6
        await asyncio.gather(*(ask(made, n) for n in range(1, 51)))
        figures = made["n0"].router.statistics()["shadows"]
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        return figures["in_flight"], figures["skipped"], len(asyncio.all_tasks())

    assert run_virtual(scenario()) == (32, 18, 1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_version_can_be_streamed(share):
    async def scenario():
        made = world(share=share)
        stream = made["n0"].router.stream("r", {"n": 1}, request())
        parts = [part async for part in stream]
        return parts[-1].fields["by"], parts[-1].version

    assert run_virtual(scenario()) == (("new", "v2") if share else ("old", ""))

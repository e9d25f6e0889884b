"""The turns of a conversation come to one node, to another when that is gone or full."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from mesh.errors import Unreachable
from mesh.flow.choose import ring_key
from mesh.roles.base import Role
from mesh.settings.topology import Role as Spec
from mesh.settings.topology import Version
from tests.support.flow import Fault, World, request
from tests.support.virtual_loop import run_virtual


class Reply(Role):
    """Counts the messages."""

    def run(self, batch):
        return [{"count": len(item["messages"])} for item in batch]


def world(nodes=("n1", "n2")):
    made = World()
    made.role("r", Reply, *nodes, route="prefix")
    return made


def turns(topic, count):
    """Return the messages of each turn of a conversation."""
    said = [{"role": "system", "content": "be kind"}, {"role": "user", "content": topic}]
    found = [list(said)]
    for at in range(1, count):
        said += [{"role": "assistant", "content": "so"}, {"role": "user", "content": f"{at}"}]
        found.append(list(said))
    return found


async def call(made, messages, door="n0"):
    answered = await made[door].router.call("r", {"messages": messages}, request())
    return answered.node


def test_turns_stay_together_and_conversations_spread():
    async def scenario():
        made = world()
        return [
            {await call(made, messages, door) for messages in turns(f"topic {at}", 4)
             for door in ("n0", "n1", "n2")}
            for at in range(30)
        ]  # fmt: skip

    nodes = run_virtual(scenario())
    assert all(len(each) == 1 for each in nodes), "whichever door they come by"
    spread = Counter(next(iter(each)) for each in nodes)
    assert min(spread["n1"], spread["n2"]) > 6


def test_a_conversation_whose_node_is_gone_goes_on_at_the_other_and_stays_there():
    async def scenario():
        made = world()
        first, *later = turns("a", 4)
        owner = await call(made, first)
        made.network.faults[f"{owner}:1"] = Fault(before=Unreachable())
        return owner, [await call(made, messages) for messages in later]

    owner, later = run_virtual(scenario())
    assert set(later) == {"n1", "n2"} - {owner}


def test_one_hot_conversation_does_not_drown_its_node():
    async def scenario():
        made = world()
        (messages,) = turns("hot", 1)
        nodes = await asyncio.gather(*(call(made, messages) for _ in range(20)))
        return Counter(nodes)

    seen = run_virtual(scenario())
    assert min(seen.values()) >= 5, "no more than one and a half times the mean"


def test_a_conversation_keeps_its_version_and_its_node():
    """What one version has read is no use to another."""

    async def scenario():
        made = world()
        versions = {"v2": Version("new", 0.5, shadow=False)}
        made.role("new", Reply, "n1", "n2", route="prefix")
        made.role("r", Reply, "n1", "n2", route="prefix", versions=versions)
        seen = []
        for at in range(30):
            asked = [
                await made["n0"].router.call("r", {"messages": messages}, request(f"{at}{turn}"))
                for turn, messages in enumerate(turns(f"topic {at}", 3))
            ]
            seen.append({(each.version, each.node) for each in asked})
        return seen

    seen = run_virtual(scenario())
    assert all(len(each) == 1 for each in seen)
    assert len(set.union(*seen)) == 4, "both versions at both nodes"


def test_without_a_beginning_the_load_decides():
    async def scenario():
        made = world()
        return Counter(await asyncio.gather(*(call(made, []) for _ in range(8))))

    assert set(run_virtual(scenario())) == {"n1", "n2"}


@pytest.mark.parametrize(
    ("kind", "route", "is_routed"),
    [
        ("generate", "auto", True),
        ("embed", "auto", False),
        ("embed", "prefix", True),
        ("generate", "least-loaded", False),
    ],
)
def test_what_generates_is_routed_so_unless_told_otherwise(kind, route, is_routed):
    spec = Spec(kind=kind, route=route)
    key = ring_key(spec, {"messages": turns("a", 1)[0]}, request=None)
    assert (key is not None) == is_routed

"""Every node works out the same nodes for every role."""

from __future__ import annotations

import pytest

from mesh.flow.assign import assigned, group_of, groups_of
from mesh.gossip.member import Facts
from mesh.settings.topology import Mesh, Needs, Role, Scale, Topology


def topology(**roles) -> Topology:
    return Topology(mesh=Mesh(name="t"), roles=roles)


def facts(count: int, **more) -> list[Facts]:
    return [Facts(name=f"n{index}", **more) for index in range(count)]


def test_needs_are_kept():
    role = Role(kind="k", replicas=3, needs=Needs(labels=("gpu",), memory_mb=500))
    nodes = [
        Facts(name="plain", memory_mb=900),
        Facts(name="small", memory_mb=100, labels=("gpu",)),
        Facts(name="right", memory_mb=900, labels=("gpu", "fast")),
    ]
    assert {"r": ("right",)} == assigned(topology(r=role), nodes)


def test_an_elastic_role_grows_where_it_is_and_shrinks_to_where_it_was():
    made = topology(r=Role(kind="k", replicas=Scale(min=1, max=3)))
    nodes = facts(4)
    (first,) = assigned(made, nodes)["r"]

    def told(serving, **words):
        return [
            Facts(name=one.name, roles=("r",), **words) if one.name in serving else one
            for one in nodes
        ]

    last = next(one.name for one in nodes if one.name != first)
    assert (last,) == assigned(made, told([last]))["r"]
    grown = assigned(made, told([last], busy=("r",)))["r"]
    assert 2 == len(grown)
    assert last in grown
    assert set(grown) > set(assigned(made, told(grown, idle=("r",)))["r"])


def test_a_node_that_leaves_hands_its_role_to_another():
    made = topology(r=Role(kind="k", replicas=1))
    (first,) = assigned(made, facts(3))["r"]
    leaving = [Facts(name=one.name, draining=one.name == first) for one in facts(3)]
    assert first not in assigned(made, leaving)["r"]


def split(count, replicas):
    nodes = tuple(f"n{index}" for index in range(count))
    return Role(kind="generate", nodes=nodes, layers="auto", replicas=replicas)


@pytest.mark.parametrize(
    ("count", "replicas", "groups"),
    [
        (3, 0, ["n0 n1 n2"]),
        (4, 2, ["n0 n1", "n2 n3"]),
        (5, 2, ["n0 n1", "n2 n3 n4"]),
        (2, 2, ["n0", "n1"]),
        (2, 5, ["n0", "n1"]),
    ],
)
def test_the_nodes_of_a_split_role_are_dealt_out_to_its_chains(count, replicas, groups):
    role = split(count, replicas)
    assert groups == [" ".join(group) for group in groups_of(role)]
    assert group_of(role, "n0") == groups_of(role)[0]


def test_each_chain_has_a_head_of_its_own_and_one_that_leads_stays():
    made = topology(r=split(4, 2))
    assert assigned(made, facts(4))["r"] == ("n0", "n2")
    leading = [Facts(name=f"n{at}", roles=("r",) * (at in (1, 2))) for at in range(4)]
    assert assigned(made, leading)["r"] == ("n1", "n2")


def test_a_chain_whose_nodes_are_all_gone_takes_none_of_the_others():
    made = topology(r=split(4, 2))
    left = [one for one in facts(4) if one.name in ("n2", "n3")]
    assert assigned(made, left)["r"] == ("n2",)
    assert assigned(made, [Facts(name="n9")])["r"] == ()

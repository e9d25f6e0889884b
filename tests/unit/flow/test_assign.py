"""Every node works out the same nodes for every role."""

from __future__ import annotations

from mesh.flow.assign import assigned
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

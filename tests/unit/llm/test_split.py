"""The cut of a model is contiguous, whole, within memory, and its slowest part the fastest."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import SetupError
from mesh.llm.split import Costs, Part, Place, bottleneck_s, plan


def places(*speeds, memory=0):
    return [Place(f"n{at}", speed, memory) for at, speed in enumerate(speeds)]


@pytest.mark.parametrize(
    ("layers", "costs", "nodes", "expected"),
    [
        (30, Costs(1.0, 8.0), places(1, 1, 1), (4, 13, 13)),
        (30, Costs(1.0, 0.0), places(1, 1, 1), (10, 10, 10)),
        (30, Costs(1.0, 8.0), places(1), (30,)),
        (12, Costs(1.0, 0.0), places(1, 2), (4, 8)),
        (2, Costs(1.0, 8.0), places(1, 1, 1), (0, 1, 1)),
    ],
)
def test_table(layers, costs, nodes, expected):
    assert expected == tuple(part.count for part in plan(layers, costs, nodes))


def test_a_node_that_would_only_slow_the_chain_gets_nothing():
    parts = plan(30, Costs(1.0, 8.0), places(1.0, 0.001, 1.0))
    assert ["n0", "n2"] == [part.node for part in parts]


@pytest.mark.parametrize(("count", "expected"), [(1, (30,)), (2, (7, 23)), (3, (0, 15, 15))])
def test_the_head_has_least_where_all_share_a_machine(count, expected):
    """Cores are shared, so parts need no balance; steps under way meet at the head."""
    costs = Costs(1.0, 4.0).together(30)
    assert expected == tuple(part.count for part in plan(30, costs, places(*[1] * count)))


def test_counts_by_hand_are_followed_and_spares_stand_by():
    nodes = places(1, 1, 1, 1)
    assert (Part("n0", 0, 1), Part("n1", 1, 3), Part("n2", 3, 6)) == plan(
        6, Costs(), nodes, [1, 2, 3]
    )
    assert ["n0", "n2", "n3"] == [
        part.node for part in plan(6, Costs(), [nodes[0], *nodes[2:]], [1, 2, 3])
    ]


def test_with_too_few_nodes_for_the_counts_the_rest_share():
    assert [3, 3] == [part.count for part in plan(6, Costs(), places(1, 1), [1, 2, 3])]


@pytest.mark.parametrize("counts", [[1, 2], [7], [3, 3, 3]])
def test_counts_that_do_not_add_up_are_refused(counts):
    with pytest.raises(SetupError):
        plan(6, Costs(), places(1, 1, 1), counts)


def test_memory_binds():
    costs = Costs(1.0, 0.0, layer_bytes=10, ends_bytes=35)
    tight = [Place("n0", 1.0, 45), Place("n1", 1.0, 30), Place("n2", 1.0, 0)]
    assert [1, 2, 3] == [part.count for part in plan(6, costs, tight)]
    with pytest.raises(SetupError):
        plan(6, costs, places(1, 1, memory=36))


@given(
    st.integers(1, 7),
    st.lists(st.floats(0.1, 10), min_size=1, max_size=4),
    st.floats(0, 20),
)
def test_no_other_cut_has_a_faster_slowest_part(layers, speeds, ends_s):
    """Exactness: compared with every cut there is."""
    nodes, costs = places(*speeds), Costs(1.0, ends_s)
    parts = plan(layers, costs, nodes)
    assert [0, *(part.last for part in parts[:-1])] == [part.first for part in parts]
    assert parts[-1].last == layers
    every = [
        max(
            (count + ends_s * (at == 0)) / node.speed
            for at, (count, node) in enumerate(zip(counts, nodes, strict=True))
            if count or at == 0
        )
        for counts in product(range(layers + 1), repeat=len(nodes))
        if sum(counts) == layers
    ]
    assert bottleneck_s(parts, costs, nodes) == pytest.approx(min(every))

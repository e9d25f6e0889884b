"""Roles go to the nodes that were named, or evenly to those that can."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.ring.placement import Need, place


@dataclass(frozen=True)
class Role:
    nodes: tuple[str, ...] = ()
    replicas: int = 0


@dataclass(frozen=True)
class Node:
    name: str
    weight: float = 1.0
    draining: bool = False
    zone: str = ""
    memory_mb: int = 0
    labels: tuple[str, ...] = ()


def nodes(count: int) -> list[Node]:
    return [Node(f"n{index}") for index in range(count)]


def test_named_nodes_are_taken_as_they_are() -> None:
    roles = {"a": Role(nodes=("n9", "n0"))}
    assert {"a": ("n9", "n0")} == place(roles, [Node("n0", draining=True)])


@settings(max_examples=40)
@given(st.integers(0, 8), st.lists(st.integers(1, 4), max_size=5), st.randoms())
def test_each_role_gets_distinct_nodes_as_far_as_they_go(
    count: int, replicas: list[int], chance
) -> None:
    """Whatever the order in which members are listed."""
    roles = {f"r{index}": Role(replicas=number) for index, number in enumerate(replicas)}
    placed = place(roles, nodes(count))
    for name, role in roles.items():
        assert min(role.replicas, count) == len(set(placed[name])) == len(placed[name])
    shuffled = nodes(count)
    chance.shuffle(shuffled)
    assert placed == place(roles, shuffled)


def test_replicas_are_spread() -> None:
    roles = {f"r{index}": Role(replicas=1) for index in range(12)}
    counts = Counter(name for placed in place(roles, nodes(4)).values() for name in placed)
    assert max(counts.values()) <= 5  # ceil(1.5 · 12 / 4)


def test_who_cannot_is_not_chosen() -> None:
    members = [
        Node("draining", draining=True),
        Node("idle", weight=0),
        Node("plain"),
        Node("gpu", labels=("gpu", "fast")),
    ]
    placed = place(
        {"any": Role(replicas=4), "big": Role(replicas=4)},
        members,
        {"big": Need(labels=("gpu",))},
    )
    assert {"any": {"plain", "gpu"}, "big": {"gpu"}} == {r: set(n) for r, n in placed.items()}


def test_memory_runs_out() -> None:
    roles = {"a": Role(nodes=("n0",)), "b": Role(replicas=2), "c": Role(replicas=2)}
    members = [Node("n0", memory_mb=1000), Node("n1", memory_mb=1000), Node("n2")]
    needs = dict.fromkeys(roles, Need(memory_mb=600))
    placed = place(roles, members, needs)
    assert {"n1", "n2"} == set(placed["b"])
    assert ("n2",) == placed["c"]


def test_replicas_go_to_distinct_zones_first() -> None:
    members = [Node(f"e{i}", zone="east") for i in range(4)] + [Node("w", zone="west")]
    placed = place({f"r{i}": Role(replicas=2) for i in range(3)}, members)
    assert all(
        {"east", "west"} == {"west" if n == "w" else "east" for n in p} for p in placed.values()
    )


def test_a_member_that_leaves_moves_little() -> None:
    roles = {f"r{index}": Role(replicas=1) for index in range(30)}
    before, after = place(roles, nodes(6)), place(roles, nodes(5))
    moved = [name for name in roles if before[name] != after[name]]
    assert len(moved) <= 12  # the five or so of the one who left, and a few that were in their way

"""Owners follow from the members alone; changes move only what they must; shares are even."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from math import sqrt
from statistics import fmean, pstdev

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.ring.ring import VNODES, WEIGHT_MAX, Ring, hash64, hash_md5, moves, vnodes
from mesh.ring.ring import ring_of as kept_ring

NAMES = st.sets(st.text("abcdefgh0123", min_size=1, max_size=4), min_size=1, max_size=8)
KEYS = [f"key-{index}" for index in range(300)]


def ring_of(count: int, offset: int = 0) -> Ring:
    return Ring({f"n{index + offset}": 1 for index in range(count)})


def test_the_hash_is_fixed() -> None:
    """Seed, width, half and signedness are part of what nodes agree on."""
    assert [0, 14688674573012802306] == [hash64(b""), hash64(b"hello")]


def test_the_md5_ring_agrees_with_the_known_answer() -> None:
    names = [f"http://localhost:{port}" for port in (8001, 8002, 8003)]
    ring = Ring(dict.fromkeys(names, 1), hash_=hash_md5)
    counts = Counter(ring.owners(f"req_{index}")[0] for index in range(5000))
    assert [1520, 1700, 1780] == [counts[name] for name in names]


@settings(max_examples=30)
@given(NAMES, st.randoms())
def test_the_order_of_members_does_not_matter(names: set[str], chance) -> None:
    """A ring is a function of the set."""
    shuffled = sorted(names)
    chance.shuffle(shuffled)
    one, two = Ring(dict.fromkeys(sorted(names), 1)), Ring(dict.fromkeys(shuffled, 1))
    assert one == two
    assert [one.owners(key, 3) for key in KEYS] == [two.owners(key, 3) for key in KEYS]


@settings(max_examples=30)
@given(NAMES, st.text("xyz", min_size=1, max_size=3))
def test_a_joiner_takes_and_nothing_else_moves(names: set[str], joiner: str) -> None:
    """Every key whose owner changed is owned by the joiner; backwards: was owned by the leaver."""
    old = Ring(dict.fromkeys(names, 1))
    new = Ring(dict.fromkeys({*names, joiner}, 1))
    for key in KEYS:
        before, after = old.owners(key)[0], new.owners(key)[0]
        assert after in (before, joiner)
        # Without the joiner, its keys go where the walk goes on.
        assert old.owners(key)[0] == next(n for n in new.owners(key, 2) if n != joiner)
    moved = moves(old, new)
    assert {target for _, target in moved} == {joiner}
    assert moved.keys() == {(target, source) for source, target in moves(new, old)}
    assert sum(moved.values()) == pytest.approx(new.shares()[joiner])


@settings(max_examples=30)
@given(NAMES, st.integers(1, 10))
def test_owners_are_distinct_and_as_many_as_there_are(names: set[str], count: int) -> None:
    """Never the same twice, and the first ones do not depend on how many are asked for."""
    ring = Ring(dict.fromkeys(names, 1))
    for key in KEYS[:20]:
        owners = ring.owners(key, count)
        assert len(set(owners)) == len(owners) == min(count, len(names))
        assert ring.owners(key) == owners[:1]


@settings(max_examples=30)
@given(NAMES, st.floats(0.1, 4), st.floats(0.1, 4))
def test_a_change_of_weight_moves_one_way_only(names: set[str], low: float, high: float) -> None:
    """More weight only takes from the others."""
    assume(low < high)
    name = min(names)
    old = Ring({**dict.fromkeys(names, 1.0), name: low})
    new = Ring({**dict.fromkeys(names, 1.0), name: high})
    assert {target for _, target in moves(old, new)} <= {name}


@pytest.mark.parametrize("count", [3, 10, 30])
def test_shares_are_as_even_as_the_formula_says(count: int) -> None:
    """std/mean = sqrt((N-1)/(N·V+1)), here as the mean of the squares over several rings."""
    expected = sqrt((count - 1) / (count * VNODES + 1))
    squares = []
    for offset in range(0, 3000, 100):
        shares = ring_of(count, offset).shares().values()
        squares.append((pstdev(shares) / fmean(shares)) ** 2)
    assert expected == pytest.approx(sqrt(fmean(squares)), rel=0.2)


@pytest.mark.parametrize(("count", "ideal"), [(3, 0.25), (10, 0.0909)])
def test_a_join_moves_about_one_part(count: int, ideal: float) -> None:
    old, new = ring_of(count), ring_of(count + 1)
    assert ideal == pytest.approx(sum(moves(old, new).values()), rel=0.25)


def test_shares_agree_with_counting_keys() -> None:
    ring = Ring({"a": 1, "b": 2, "c": 0.5})
    counts = Counter(ring.owners(f"k{index}")[0] for index in range(20_000))
    for name, share in ring.shares().items():
        assert share == pytest.approx(counts[name] / 20_000, abs=0.012)
    assert 1.0 == pytest.approx(sum(ring.shares().values()))


def test_a_key_on_a_point_belongs_to_the_point() -> None:
    ring = Ring({"a": 1, "b": 1, "c": 1})
    assert ("b",) == ring.owners("b#17")


def test_text_and_bytes_are_the_same_key() -> None:
    assert ring_of(5).owners("é", 3) == ring_of(5).owners("é".encode(), 3)


def test_a_ring_of_nobody_owns_nothing() -> None:
    for ring in (Ring({}), Ring({"a": 0, "b": -1, "c": float("nan")})):
        assert () == ring.owners("key", 2)
        assert {} == moves(ring, Ring({}))
        assert 0 == sum(ring.shares().values())
    assert {("", "a"): pytest.approx(1.0)} == moves(Ring({}), Ring({"a": 1}))


def test_weights_are_bounded() -> None:
    assert [0, 1, 150, 75, 9600] == [vnodes(w) for w in (0, 1e-9, 1, 0.5, 1e9)]
    assert VNODES * WEIGHT_MAX == vnodes(float("inf"))


def test_owners_stand_in_distinct_zones_first() -> None:
    names = [f"n{index}" for index in range(6)]
    zones = {name: "east" if index < 4 else "west" for index, name in enumerate(names)}
    plain, zoned = Ring(dict.fromkeys(names, 1)), Ring(dict.fromkeys(names, 1), zones)
    assert plain.version != zoned.version
    for key in KEYS:
        assert {"east", "west"} == {zones[name] for name in zoned.owners(key, 2)}
        assert plain.owners(key) == zoned.owners(key)
        assert 6 == len(set(zoned.owners(key, 6)))


def test_the_version_tells_rings_apart() -> None:
    rings = [Ring({"a": 1}), Ring({"a": 2}), Ring({"b": 1}), Ring({"a": 1, "b": 1}), Ring({})]
    assert len(rings) == len({ring.version for ring in rings})
    assert Ring({"a": 1.0}) == Ring({"a": 1})


def test_a_ring_is_made_once_for_equal_members() -> None:
    """In whatever order they are told; another weight makes another ring."""
    first, again = kept_ring({"a": 1.0, "b": 2.0}), kept_ring({"b": 2.0, "a": 1.0})
    other = kept_ring({"a": 1.0, "b": 2.5})
    assert first is again
    assert first == Ring({"a": 1.0, "b": 2.0})
    assert other == Ring({"a": 1.0, "b": 2.5})
    assert other != first


@pytest.mark.slow
def test_every_process_computes_the_same() -> None:
    """Whatever its hash seed."""
    code = (
        "from mesh.ring.ring import Ring; r = Ring({f'n{i}': 1 for i in range(5)});"
        "print(r.version, [r.owners(f'k{i}', 2) for i in range(200)], r.shares())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            timeout=30,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert 1 == len(outputs)

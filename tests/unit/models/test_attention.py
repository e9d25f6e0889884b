"""Which rows attend together, and how positions turn."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from mesh.models.architecture import Architecture, frequencies
from mesh.models.attention import ROUND, KeyValues, Plans, Rotary, chunk_mask, padded_to, rows, runs

SHAPE = Architecture(
    kind="llama",
    family="llama",
    layers=1,
    width=64,
    heads=4,
    kv_heads=2,
    head_width=16,
    inner=64,
    vocabulary=10,
    context=256,
    norm_eps=1e-5,
    rope_theta=10000.0,
)


@pytest.mark.parametrize(
    ("slots", "positions", "expected"),
    [
        ([0], [0], [(0, 1, 0, 16)]),
        ([0, 1, 2], [10, 70, 20], [(0, 3, 0, 80)]),
        ([0, 2], [10, 15], [(0, 1, 0, 16), (1, 2, 2, 16)]),
        ([0, 1], [16, 2000], [(0, 1, 0, 32), (1, 2, 1, 2016)]),
        ([3, 3, 3], [5, 6, 7], [(0, 1, 3, 16), (1, 2, 3, 16), (2, 3, 3, 16)]),
    ],
)
def test_neighbours_of_like_length_attend_together(slots, positions, expected):
    assert expected == runs(slots, positions)


def equal(plan, other):
    assert plan.positions == other.positions
    assert plan.sequences == other.sequences
    assert torch.equal(plan.counters, other.counters)
    assert torch.equal(plan.places, other.places)
    assert torch.equal(plan.targets, other.targets)
    assert [run.bounds for run in plan.runs] == [run.bounds for run in other.runs]
    for run, same in zip(plan.runs, other.runs, strict=True):
        assert torch.equal(run.mask, same.mask)
        assert torch.equal(run.flat, same.mask.view(-1))
        assert torch.equal(run.own, same.own)
    for part, same in zip(plan.turns.parts, other.turns.parts, strict=True):
        assert torch.equal(part, same)


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_moved_on_equals_one_made_anew(seed):
    """Whoever joins or leaves, says several positions at once, or again what was said."""
    random = Random(seed)
    cache, rotary = KeyValues(SHAPE, 1, 6, 256), Rotary(SHAPE, 256)
    plans, moved = Plans(cache, rotary), 0
    last = None
    at = {slot: random.randrange(200) for slot in range(6)}
    members = [0, 2, 3]
    for _ in range(60):
        if random.random() < 0.1:
            members = sorted(random.sample(range(6), random.randrange(1, 7)))
        if random.random() < 0.1:
            at[random.choice(members)] = random.randrange(200)
        several = {slot: random.choice([1, 1, 1, 1, 3]) if seed > 1 else 1 for slot in members}
        each = [(slot, at[slot] + more) for slot in members for more in range(several[slot])]
        slots, positions = [slot for slot, _ in each], [position for _, position in each]
        found = plans.rows(slots, positions)
        moved += found is last
        last = found
        equal(found, rows(cache, rotary, slots, positions))
        for slot in members:
            at[slot] = min(at[slot] + 1, 250)
    assert moved > 5


def test_a_plan_shows_each_row_its_own_past_and_where_it_is_kept():
    cache, rotary = KeyValues(SHAPE, 1, 4, 64), Rotary(SHAPE, 64)
    plan = rows(cache, rotary, [1, 2], [3, 17])
    (run,) = plan.runs
    assert run.mask.shape == (2 * 2, 1, 32)
    assert (run.mask == 0).sum(-1).flatten().tolist() == [4, 4, 18, 18]
    assert float(run.mask[:2, :, 4:].max()) == float("-inf")
    lines = cache.layers[0].view(-1, 16)
    lines[plan.targets] = torch.arange(8.0)[:, None].expand(8, 16)
    assert cache.layers[0][:, 1, :, 3, 0].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert cache.layers[0][:, 2, :, 17, 0].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    turn, joined = plan.turns.parts
    assert torch.equal(turn[:, 0], rotary.table[[3, 17]])
    assert torch.equal(joined[:, :2], turn.expand(2, 2, -1))
    assert torch.equal(joined[:, 2:], torch.ones_like(joined[:, 2:]))


@pytest.mark.parametrize("queries", [1, 3, 4, 7])
def test_padding_and_company_change_no_bit_of_what_a_row_sees(queries):
    """At any length, for any number of queries a head of keys."""
    random = torch.Generator().manual_seed(queries)
    past = torch.randn(2, 6, 640, 64, generator=random)
    q = torch.randn(6, queries, 64, generator=random)

    def seen(heads, padded, length):
        mask = torch.zeros(len(q[heads]), 1, padded)
        mask[:, :, length:] = float("-inf")
        keys, values = past[0, heads, :padded].transpose(1, 2), past[1, heads, :padded]
        scores = torch.baddbmm(mask, q[heads], keys, alpha=0.125)
        return torch.bmm(torch.softmax(scores, -1), values)

    for length in (1, 7, 16, 33, 100, 129, 192, 193, 255, 350, 384, 385, 500):
        expected = seen(slice(3, 4), padded_to(length, queries), length)
        for longer in (length + 1, length + ROUND, length + 3 * ROUND, 640):
            padded = padded_to(longer, queries)
            assert torch.equal(seen(slice(3, 4), padded, length), expected)
            assert torch.equal(seen(slice(0, 6), padded, length)[3:4], expected)


@pytest.mark.parametrize("queries", [1, 3, 4, 9])
def test_no_length_is_padded_to_less_or_to_sums_that_are_cut(queries):
    for length in range(1, 600):
        padded = padded_to(length, queries)
        assert padded >= length
        assert padded % ROUND == 0
        assert padded <= padded_to(length + 1, queries)
        assert queries < 4 or not 192 < padded < 384
        assert padded - length < (ROUND if queries < 4 else 192)


def test_short_slabs_are_as_long_as_what_is_read():
    cache = KeyValues(replace(SHAPE, heads=8, kv_heads=2), layers=1, slots=2, cap=208)
    plan = rows(cache, None, [1], [200])
    assert plan.runs[0].padded == 384
    keys, values = cache.views(plan.runs[0])
    assert keys[0].shape == (2, 16, 384)
    cache.layers[0].view(-1, 16)[plan.targets] = 1.0
    assert float(values[0][:, 200].min()) == 1.0
    assert float(cache.layers[0].sum()) == 2 * 2 * 16


def test_queries_and_keys_meet_by_distance_alone():
    table = Rotary(SHAPE, 64).table
    query, key = torch.randn(8, dtype=torch.complex64), torch.randn(8, dtype=torch.complex64)

    def score(at, other):
        return float((query * table[at] * (key * table[other]).conj()).real.sum())

    assert score(5, 2) == pytest.approx(score(40, 37), abs=1e-4)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-4)


def test_frequencies_fall_from_one():
    angles = frequencies(SHAPE)
    assert angles[0] == 1.0
    assert angles == sorted(angles, reverse=True)
    assert angles[4] == pytest.approx(0.01)


def test_a_chunk_sees_what_is_before_it_and_itself():
    assert chunk_mask(0, 3) is None
    assert chunk_mask(2, 2).tolist() == [[True, True, True, False], [True] * 4]


def test_a_slot_given_back_reads_as_zeros_and_others_stay():
    cache = KeyValues(SHAPE, layers=2, slots=2, cap=64)
    for layer in cache.layers:
        layer.fill_(1.0)
    cache.give_back(0)
    for layer in cache.layers:
        size = 4 * 2 * 64 * 16
        expected = 0.0 if size % 4096 == 0 else 1.0
        assert float(layer[:, 0].abs().max()) == expected
        assert float(layer[:, 1].min()) == 1.0


def test_a_moved_sequence_is_the_same_elsewhere():
    cache = KeyValues(SHAPE, layers=1, slots=3, cap=64)
    cache.layers[0].normal_()
    expected = cache.layers[0][:, 0, :, :10].clone()
    cache.copy(0, 2, 0, 10)
    assert torch.equal(cache.layers[0][:, 2, :, :10], expected)

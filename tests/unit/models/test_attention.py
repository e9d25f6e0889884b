"""Which rows attend together, and how positions turn."""

from __future__ import annotations

import pytest
import torch

from mesh.models.architecture import Architecture, frequencies
from mesh.models.attention import KeyValues, Rotary, chunk_mask, runs

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
        ([0], [0], [(0, 1, 0, 64)]),
        ([0, 1, 2], [10, 70, 20], [(0, 3, 0, 128)]),
        ([0, 2], [10, 10], [(0, 1, 0, 64), (1, 2, 2, 64)]),
        ([0, 1], [10, 2000], [(0, 1, 0, 64), (1, 2, 1, 2048)]),
        ([3, 3, 3], [5, 6, 7], [(0, 1, 3, 64), (1, 2, 3, 64), (2, 3, 3, 64)]),
    ],
)
def test_neighbours_of_like_length_attend_together(slots, positions, expected):
    assert expected == runs(slots, positions)


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

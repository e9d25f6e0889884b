"""Fusion is a pure function of ranks; late interaction of token vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.index.ranking import fuse, max_sim, max_sims

RANKING = st.lists(st.integers(0, 20), max_size=12, unique=True)


@pytest.mark.parametrize(
    ("rankings", "weights", "expected"),
    [
        ([[1, 2], [2, 1]], (), [(1, 1 / 61 + 1 / 62), (2, 1 / 61 + 1 / 62)]),
        ([[1, 2], [3]], (), [(1, 1 / 61), (3, 1 / 61), (2, 1 / 62)]),
        ([[1], [2]], (1, 0.5), [(1, 1 / 61), (2, 0.5 / 61)]),
        ([[4, 4, 5]], (), [(4, 1 / 61), (5, 1 / 62)]),
        ([[], []], (), []),
    ],
)
def test_fusion_adds_weight_over_sixty_plus_rank(rankings, weights, expected):
    assert fuse(rankings, weights) == expected


@given(st.lists(RANKING, min_size=1, max_size=4))
def test_fusion_keeps_all_and_orders_by_score_then_id(rankings):
    """Every id comes out once, in the order of score and id, whatever the order of rankings."""
    fused = fuse(rankings)
    assert sorted(id_ for id_, _ in fused) == sorted({id_ for row in rankings for id_ in row})
    assert fused == sorted(fused, key=lambda hit: (-hit[1], hit[0]))
    assert [i for i, _ in fuse(rankings * 2)] == [i for i, _ in fused]


def test_max_sim_averages_the_best_match_of_each_word():
    query = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    document = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
    assert max_sim(query, document) == pytest.approx((1.0 + 0.8) / 2)
    assert max_sim(query, document[:0]) == max_sim(query[:0], document) == 0.0


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 3))
def test_many_documents_score_as_each_alone(lengths, words):
    """Whatever their lengths, none of tokens included; rows need not be of length one."""
    random = np.random.default_rng(len(lengths))
    query = random.standard_normal((words, 8)).astype(np.float32)
    documents = [random.integers(1, 127, (length, 8)).astype(np.int8) for length in lengths]
    alone = [max_sim(query, one / np.linalg.norm(one, axis=1, keepdims=True)) for one in documents]
    assert max_sims(query, documents) == pytest.approx(alone, abs=1e-5)

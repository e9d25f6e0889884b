"""Samplers do what their definitions say, and chance depends on seed and index alone."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Unprocessable
from mesh.models.sampling import Sampling, chance, choose, draw, kept, penalise

ODDS = [0.5, 0.25, 0.15, 0.07, 0.03]


@pytest.fixture
def scores():
    return torch.tensor([log(share) for share in ODDS])


def kept_ids(scores, **wish):
    return sorted(kept(scores, Sampling(temperature=1.0, **wish))[1].tolist())


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.5}, [0]),
        ({"top_p": 0.51}, [0, 1]),
        ({"top_p": 0.9}, [0, 1, 2]),
        ({"min_p": 0.2}, [0, 1, 2]),
        ({"min_p": 0.6}, [0]),
        ({"top_k": 3, "top_p": 0.8}, [0, 1]),
        ({"top_k": 4, "min_p": 0.2}, [0, 1, 2]),
    ],
)
def test_what_is_kept(scores, wish, expected):
    assert expected == kept_ids(scores, **wish)


def test_temperature_flattens_or_sharpens(scores):
    hot, _ = kept(scores, Sampling(temperature=2.0))
    expected = torch.tensor(ODDS, dtype=torch.float64).sqrt()
    torch.testing.assert_close(hot, expected / expected.sum(), rtol=1e-5, atol=1e-7)
    assert choose(scores, Sampling(temperature=0), (), ()).token == 0


@pytest.mark.parametrize(
    ("point", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.76, 2), (0.999, 4)]
)
def test_a_draw_inverts_the_cumulated_odds(scores, point, token):
    assert draw(scores, Sampling(temperature=1.0), point) == token


def test_draws_have_the_odds_of_the_model(scores):
    wish = Sampling(temperature=1.0, top_p=0.999, seed=4)
    drawn = [draw(scores, wish, chance(4, index)) for index in range(2000)]
    for token, share in enumerate(ODDS):
        assert abs(drawn.count(token) / 2000 - share) < 0.04


@given(st.integers(0, 2**63), st.integers(0, 10**6))
def test_chance_is_a_function(seed, index):
    """The same seed and index give the same number, always in [0, 1)."""
    assert 0.0 <= chance(seed, index) == chance(seed, index) < 1.0
    assert chance(seed, index) != chance(seed, index + 1)


def test_penalties_follow_their_formulas():
    scores = torch.tensor([2.0, -2.0, 1.0, 1.0])
    found = penalise(scores, Sampling(repetition=2.0), prompt=[0], answer=[1])
    assert found.tolist() == [1.0, -4.0, 1.0, 1.0]
    found = penalise(scores, Sampling(presence=0.5, frequency=0.25), prompt=[0], answer=[2, 2, 3])
    assert found.tolist() == [2.0, -2.0, 0.0, 0.25]
    assert penalise(scores, Sampling(), [0], [1]) is scores


def test_logprobs_are_the_models_own(scores):
    choice = choose(scores, Sampling(temperature=0, logprobs=2), (), ())
    assert choice.logprob == pytest.approx(log(0.5))
    assert choice.alternatives == (
        (0, pytest.approx(log(0.5))),
        (1, pytest.approx(log(0.25))),
    )


@given(
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 5, 40]),
    st.sampled_from([0.1, 0.7, 0.99, 1.0]),
)
def test_the_short_sort_keeps_what_the_whole_one_keeps(seed, top_k, top_p):
    """Taking the best 512 first changes nothing, ties or not."""
    row = 3 * torch.randn(650, generator=torch.Generator().manual_seed(seed))
    row = row.round() if seed % 2 else row
    scores = row.tolist()
    odds, ids = kept(row, Sampling(temperature=1.0, top_k=top_k, top_p=top_p))
    whole = torch.softmax(row.double(), -1).sort(descending=True, stable=True)
    count = top_k or len(scores)
    limited = whole.values[:count] / whole.values[:count].sum() if top_k else whole.values
    if top_p < 1:
        count = max(1, int((limited.cumsum(-1) - limited < top_p).sum()))
    if top_k or top_p < 1:
        assert ids.tolist() == whole.indices[:count].tolist()
    assert len(odds) == len(ids)


@pytest.mark.parametrize(
    "wish", [{"temperature": -1.0}, {"top_p": 0.0}, {"min_p": 2.0}, {"top_k": -1}, {"logprobs": 99}]
)
def test_wishes_out_of_range_are_refused(wish):
    with pytest.raises(Unprocessable, match=next(iter(wish))):
        Sampling(**wish)

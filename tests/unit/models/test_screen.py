"""Coarse scores find the best: near the exact ones, each row's its own, wherever it runs."""

from __future__ import annotations

import pytest
import torch

from mesh.models.screen import (
    FEW,
    LOT,
    LOTS,
    Bytes,
    Screen,
    Words,
    best_places,
    multiplies_bytes,
)

needs_bytes = pytest.mark.skipif(not multiplies_bytes(), reason="8 bits are not multiplied here")
FORMS = [pytest.param(Bytes, marks=needs_bytes), Words]


def chance(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def activations(count, width=128):
    """As a model has them: one is a hundred times the others."""
    x = chance(count, width)
    x[:, 7] *= 100
    return x


@pytest.fixture(scope="module")
def weight():
    return chance(700, 128)  # no whole lots


@pytest.fixture
def probe():
    """The question, asked anew."""
    multiplies_bytes.cache_clear()
    yield multiplies_bytes
    multiplies_bytes.cache_clear()


@pytest.mark.parametrize("form", FORMS)
def test_coarse_scores_lie_near_the_exact_ones(weight, form):
    x = activations(19)
    found, exact = form(weight).scores(x), x @ weight.T
    assert found.shape == exact.shape
    assert float((found - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 40])
@pytest.mark.parametrize("has_bytes", [pytest.param(True, marks=needs_bytes), False])
def test_the_very_best_is_among_the_best(weight, probe, monkeypatch, has_bytes, count):
    """By whatever form the number of rows takes."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: has_bytes)
    x = activations(count)
    for tokens in (weight, weight[:20]):
        best = (x @ tokens.T).argmax(1, keepdim=True)
        screen = Screen(tokens)
        assert bool((screen.best(x) == best).any(1).all())
        assert int(screen.best(x).max()) < len(tokens)
        scores, places = screen.scores(x)
        assert scores.shape == (count, len(tokens))
        assert bool((places == best).any(1).all())


@pytest.mark.parametrize("form", FORMS)
def test_a_rows_scores_are_its_own(weight, form):
    product, x = form(weight), activations(35)
    for scores in (product.order, product.scores):
        alone = torch.cat([scores(x[at : at + 1]) for at in range(len(x))])
        for count in (2, 3, 8, 16, 17, 35):
            assert torch.equal(scores(x[:count]), alone[:count])


@needs_bytes
def test_no_row_is_too_small_or_too_large_for_bytes(weight):
    x = torch.stack([torch.zeros(128), torch.full((128,), 1e-10), torch.full((128,), 1e10)])
    found, exact = Bytes(weight).scores(x), x @ weight.T
    assert float(found[0].abs().max()) == 0
    for row in (1, 2):
        assert float((found[row] - exact[row]).norm() / exact[row].norm()) < 0.01


def places(scores):
    return [set(row) for row in best_places(scores, LOTS).tolist()]


@pytest.mark.parametrize("total", [50, LOT * LOTS, 40 * LOT, 40 * LOT + 3, 200 * LOT])
def test_of_so_many_as_lots_the_best_are_always_found(total):
    scores = chance(3, total)
    expected = scores.topk(LOTS).indices
    assert places(scores) == [set(row) for row in expected.tolist()]


def test_the_best_are_found_in_one_lot_and_in_many():
    together, apart = torch.zeros(1, 100 * LOT), torch.zeros(1, 100 * LOT)
    together[0, LOT : LOT + LOTS] = torch.arange(LOTS) + 1.0
    apart[0, ::LOT][:LOTS] = torch.arange(LOTS) + 1.0
    assert places(together) == [set(range(LOT, LOT + LOTS))]
    assert places(apart) == [set(range(0, LOTS * LOT, LOT))]


def test_places_of_equal_scores_are_different_places():
    assert len(places(torch.zeros(1, 100 * LOT))[0]) == LOTS


def test_without_the_instructions_bytes_are_not_multiplied(probe, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert not multiplies_bytes()


@pytest.mark.parametrize("fault", ["cut off", "missing"])
def test_nor_where_sums_are_wrong_or_the_operation_is_missing(probe, monkeypatch, fault):
    def scores(self, x):
        if fault == "missing":
            raise NotImplementedError("onednn::qlinear_pointwise")
        return torch.full((len(x), LOT), 32767.0 * LOT / 2)

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr(Bytes, "scores", scores)
    assert not multiplies_bytes()

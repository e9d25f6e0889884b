"""Quantised products are near the product of what was quantised, and rows are independent."""

from __future__ import annotations

import pytest
import torch

from mesh.models import packed
from mesh.models.layers import multiply
from mesh.models.quantize import (
    FEW_INT4,
    FEW_INT8,
    FEW_PLAIN,
    Blocks,
    Dense,
    Int4,
    Int8,
    can_int4,
    join,
    matrix,
    to_int4,
)


@pytest.fixture
def weight():
    return torch.randn(96, 128, generator=torch.Generator().manual_seed(0))


def snr_db(found, expected):
    return float(20 * torch.log10(expected.norm() / (found.float() - expected).norm()))


def rows(count, width=128):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.mark.parametrize("count", [1, 4, 7, FEW_PLAIN + 1])
def test_int4_multiplies_by_what_it_was_given(weight, count):
    blocks, x = to_int4(weight), rows(count)
    expected = x.float() @ blocks.dense().T
    assert snr_db(Int4(blocks).narrow(x), expected) > 40
    assert snr_db(Int4(blocks).wide(x), expected) > 40


@pytest.mark.parametrize("count", [1, 4, 7, FEW_PLAIN + 1])
def test_int8_multiplies_by_nearly_what_it_was_given(weight, count):
    x = rows(count)
    for product in (Int8(weight).narrow(x), Int8(weight).wide(x)):
        assert snr_db(product, x.float() @ weight.T) > 38


@pytest.mark.parametrize("form", ["int4", "int8"])
def test_a_rows_product_is_its_own(weight, form):
    product, x = matrix(weight, form), rows(19)
    alone = torch.cat([product.narrow(x[at : at + 1]) for at in range(19)])
    for count in range(1, 20):
        assert torch.equal(product.narrow(x[:count]), alone[:count])


@pytest.mark.parametrize(("form", "few"), [("int4", FEW_INT4), ("int8", FEW_INT8)])
def test_steps_of_many_sequences_take_the_copy(weight, form, few):
    """However many rows there are, and never where there is none."""
    product, x = matrix(weight, form), rows(3 * few)
    narrow = product.narrow(x)
    assert torch.equal(multiply(x, product.product(None, few)), narrow)
    many = multiply(x, product.product(None, few + 1))
    if packed.is_available() and packed.multiplies_bfloat16():
        dense = to_int4(weight).dense() if form == "int4" else weight
        assert torch.equal(many, Dense(dense.bfloat16()).narrow(x))
    assert snr_db(many, narrow.float()) > 38
    alone = matrix(weight, form, has_wide=False)
    assert torch.equal(multiply(x, alone.product(None, few + 1)), narrow)


def test_without_instructions_for_bf16_steps_stay_narrow(weight, monkeypatch):
    monkeypatch.setattr(packed, "multiplies_bfloat16", lambda: False)
    product, x = matrix(weight, "int4"), rows(FEW_PLAIN)
    assert torch.equal(multiply(x, product.product(None, 1000)), product.narrow(x))
    assert torch.equal(product.wide(x), product.narrow(x))


def test_each_group_spans_its_own_numbers(weight):
    error = (to_int4(weight).dense() - weight).abs().view(96, -1, 32)
    groups = weight.view(96, -1, 32)
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    assert bool((error <= step[..., None] * 0.5001 + 1e-6).all())


def test_rows_of_several_matrices_stand_one_under_the_other(weight):
    blocks = to_int4(weight)
    both = join([blocks, blocks])
    assert isinstance(both, Blocks)
    torch.testing.assert_close(both.dense(), torch.cat([blocks.dense()] * 2))
    mixed = join([blocks, weight])
    torch.testing.assert_close(mixed, torch.cat([blocks.dense(), weight]))


def test_the_form_follows_the_weight_and_the_wish(weight):
    blocks = to_int4(weight)
    assert isinstance(matrix(blocks, "auto"), Int4)
    assert isinstance(matrix(weight, "auto"), Int8)
    assert isinstance(matrix(blocks, "int8"), Int8)
    assert matrix(weight, "float32").narrow(rows(2).float()).dtype == torch.float32
    odd = torch.randn(90, 128)
    assert not can_int4((90, 128))
    assert isinstance(matrix(odd, "int4"), Int8)
    assert matrix(weight, "int8", has_wide=False).size_bytes < 128 * 96 * 1.1
    assert matrix(weight, "int8").size_bytes >= 128 * 96 * 3

"""Packed matrices multiply as plain ones do, for any number of rows, compiled or not."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, linear

from mesh.models import packed
from mesh.models.packed import pack, product, rounded


def chance(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 16, 17, 64, 65, 77])
def test_a_packed_matrix_multiplies_as_a_plain_one(count, dtype):
    """Also where rows are rounded up."""
    weight, bias, x = (chance(*shape).to(dtype) for shape in ((96, 64), (96,), (count, 64)))
    ready = pack(weight)
    for act, after in (("none", lambda y: y), ("gelu", gelu)):
        expected = after(linear(x.float(), weight.float(), bias.float()))
        found = product(x, ready, bias, act).float()
        assert found.shape == (count, 96)
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
    torch.testing.assert_close(product(x, ready, None), linear(x, weight), rtol=0.01, atol=0.01)


def test_few_numbers_of_rows_stand_for_all():
    """Each would have a kernel of its own."""
    stand = [rounded(rows) for rows in range(1, 257)]
    assert all(rows <= found <= 1.25 * rows for rows, found in enumerate(stand, 1))
    assert len(set(stand)) <= 36


def test_a_packed_matrix_takes_what_it_says():
    weight = chance(96, 64).bfloat16()
    assert packed.size_bytes(weight) == 96 * 64 * 2
    assert 96 * 64 * 2 <= packed.size_bytes(pack(weight)) <= 128 * 64 * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_part_of_steps_without_python():
    compiled = torch.jit.script(product)
    weight, x = chance(96, 64).bfloat16(), chance(21, 64).bfloat16()
    for ready in (pack(weight), weight):
        assert torch.equal(compiled(x, ready, None), product(x, ready, None))


def test_where_torch_lacks_it_matrices_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(packed, "is_available", lambda: False)
    weight, x = chance(96, 64), chance(3, 64)
    assert torch.equal(pack(weight), weight)
    assert torch.equal(product(x, pack(weight), None), linear(x, weight))

"""What is put on a shelf stays as it was, apart from what lies beside it."""

from __future__ import annotations

import gc
import weakref

import torch

from mesh.models import shelf
from mesh.models.shelf import LINE, SHELF, Shelves


def test_what_is_kept_lies_side_by_side_and_apart():
    shelves = Shelves()
    parts = [
        torch.arange(33, dtype=torch.uint8),
        torch.randn(3, 5),
        torch.randn(4, 2).T,
        torch.empty(0, 7),
        torch.randn(7, 2, 2).to(torch.bfloat16),
    ]
    kept = [shelves.keep(part) for part in parts]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(parts, kept, strict=True))
    assert all(each.is_contiguous() for each in kept)
    places = [each.data_ptr() for each in kept if each.numel()]
    assert places == sorted(places)
    assert all(place % LINE == 0 for place in places)
    assert places[-1] - places[0] < 5 * 2 * LINE


def test_what_is_wider_than_a_shelf_gets_one_of_its_own():
    kept = Shelves().keep(torch.ones(SHELF + 1, dtype=torch.uint8))
    assert kept.numel() == SHELF + 1
    assert bool(kept.all())


def test_a_shelf_goes_back_with_the_last_on_it(monkeypatch):
    mapped, memories = shelf.mmap.mmap, []

    class Noted(mapped):
        """Can be referred to weakly."""

    def noted(*sizes, **flags):
        memory = Noted(*sizes, **flags)
        memories.append(weakref.ref(memory))
        return memory

    monkeypatch.setattr(shelf.mmap, "mmap", noted)
    shelves = Shelves()
    first, second = shelves.keep(torch.ones(3)), shelves.keep(torch.ones(3))
    del shelves, first
    gc.collect()
    assert memories[0]() is not None
    assert second.tolist() == [1, 1, 1]
    del second
    gc.collect()
    assert memories[0]() is None

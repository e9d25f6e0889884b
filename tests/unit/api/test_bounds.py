"""What comes in too many pieces is refused at the door, with the limit in the message."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from mesh.api import app, guard, openai_form, protocol, seeds, tensors, vectors
from mesh.errors import BadRequest, MeshError, Unprocessable
from mesh.settings.schema import Node

SLOT = SimpleNamespace(name="x", datatype="FP32", shape=(-1, -1))
TENSOR = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}
RANK = {"query": "q", "documents": []}


def tensor_body(*inputs) -> bytes:
    return orjson.dumps({"inputs": inputs})


CASES = {
    "choices": lambda over: openai_form.completion(
        {"model": "m", "prompt": ["a"] * (openai_form.CHOICES_MAX + over)}
    ),
    "seed": lambda over: openai_form.completion(
        {"model": "m", "prompt": "a", "seed": openai_form._SEED_MAX + over}
    ),
    "items": lambda over: protocol._items(
        SLOT, {"x": np.zeros((protocol.ITEMS_MAX + over, 1), np.float32)}
    ),
    "axes": lambda over: tensors.read(
        tensor_body({**TENSOR, "shape": [1] * (tensors.AXES_MAX + over)}), None
    ),
    "tensors": lambda over: tensors.read(
        tensor_body(*({**TENSOR, "name": str(n)} for n in range(tensors.TENSORS_MAX + over))), None
    ),
    "texts": lambda over: vectors._texts(["a"] * (vectors.TEXTS_MAX + over)),
    "documents": lambda over: openai_form.converted(
        {**RANK, "documents": ["a"] * (vectors.DOCUMENTS_MAX + over)}, vectors.Rerank
    ),
    "id": lambda over: seeds._query_fields(
        {"request_id": "a" * (seeds.ID_CHARS_MAX + over), "query": "q"}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lists_beyond_their_limit_are_refused(name):
    """The limit itself passes."""
    CASES[name](0)
    with pytest.raises(MeshError) as caught:
        CASES[name](1)
    assert isinstance(caught.value, BadRequest | Unprocessable)


def test_verdicts_on_hosts_are_bounded():
    """A caller may send any Host; only good ones are kept, and not for ever."""
    settings = Node("n0", Path("topology.toml"))
    door = guard.Guard(SimpleNamespace(settings=settings, members=tuple))
    for number in range(3 * guard.HOSTS_MAX):
        assert door._is_ours(f"10.0.{number >> 8}.{number & 255}")
        assert not door._is_ours(f"evil-{number}.example")
        assert len(door._verdicts) <= guard.HOSTS_MAX


def test_connections_leave_the_node_files_of_its_own(monkeypatch):
    """Or a crowd of idle clients would keep it from its peers."""
    cases = {(1024, 4096): 768, (300, 300): app.FILES_SPARE, (1 << 20, 1 << 20): (1 << 20) - 256}
    for limits, expected in cases.items():
        monkeypatch.setattr(app.resource, "getrlimit", lambda _, found=limits: found)
        assert expected == app.files_left()
    monkeypatch.setattr(app.resource, "getrlimit", lambda _: (app.resource.RLIM_INFINITY,) * 2)
    assert app.files_left() > 1 << 20

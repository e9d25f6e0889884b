"""A model is a role of its kind, by either name, or a pipeline from text to text."""

from __future__ import annotations

import pytest

from mesh.api import catalog
from mesh.errors import NotFound
from tests.support.live import topology_of
from tests.support.topologies import pipeline, role

ROLES = {"embed": "embed", "talk": "generate", "other": "generate", "mood": "classify"}
PIPELINES = [
    pipeline(
        "ask",
        "query",
        "answer mood",
        ("talk", "query=query", "answer=answer"),
        ("mood", "text=answer", "label=mood"),
    ),
    pipeline("mood", "text", "label", ("mood", "text=text", "label=label")),
    pipeline("vector", "text", "vector", ("embed", "text=text", "vector=vector")),
    pipeline("both", "a b", "answer", ("talk", "query=a prompt=b", "answer=answer")),
    pipeline("count", "number", "label", ("mood", "text=number", "label=label")),
]
TOPOLOGY = topology_of(
    '[mesh]\nname = "m"\n[models.small]\nsource = "path:x"\n'
    + "".join(role(name, kind, "n0", model="small") for name, kind in ROLES.items())
    + "".join(PIPELINES)
)
TYPES = {"ask": {"query": str | None}, "mood": {"text": str}, "count": {"number": int}}


def test_models_of_text():
    found = catalog.of_text(TOPOLOGY, TYPES)
    assert list(found) == ["talk", "other", "small", "ask", "mood"]
    assert found["small"].role == "talk"
    assert (found["ask"].input, found["ask"].output) == ("query", "answer")
    assert found["mood"].output == "label"


def test_models_of_a_kind_go_by_two_names():
    found = catalog.of_kind(TOPOLOGY, "embed")
    assert {name: model.role for name, model in found.items()} == {
        "embed": "embed",
        "small": "embed",
    }


def test_unknown_name_is_told_what_there_is():
    with pytest.raises(NotFound, match=r"'gone'.*embed, small") as caught:
        catalog.chosen(catalog.of_kind(TOPOLOGY, "embed"), "gone")
    assert caught.value.param == "model"

"""A model is a role of its kind, by either name, or a pipeline from text to text."""

from __future__ import annotations

import pytest

from mesh.api import catalog
from mesh.errors import NotFound
from tests.support.live import topology_of

TOPOLOGY = topology_of("""
[mesh]
name = "m"
[models.small]
source = "path:x"
[roles.embed]
kind = "embed"
model = "small"
nodes = ["n0"]
[roles.talk]
kind = "generate"
model = "small"
nodes = ["n0"]
[roles.other]
kind = "generate"
model = "small"
nodes = ["n0"]
[roles.mood]
kind = "classify"
model = "small"
nodes = ["n0"]

[pipelines.ask]
input = ["query"]
output = ["answer", "mood"]
[[pipelines.ask.stages]]
name = "talk"
role = "talk"
take = { query = "query" }
give = { answer = "answer" }
[[pipelines.ask.stages]]
name = "mood"
role = "mood"
take = { text = "answer" }
give = { label = "mood" }

[pipelines.mood]
input = ["text"]
output = ["label"]
[[pipelines.mood.stages]]
name = "mood"
role = "mood"
take = { text = "text" }
give = { label = "label" }

[pipelines.vector]
input = ["text"]
output = ["vector"]
[[pipelines.vector.stages]]
name = "embed"
role = "embed"
take = { text = "text" }
give = { vector = "vector" }

[pipelines.both]
input = ["a", "b"]
output = ["answer"]
[[pipelines.both.stages]]
name = "talk"
role = "talk"
take = { query = "a", prompt = "b" }
give = { answer = "answer" }

[pipelines.count]
input = ["number"]
output = ["label"]
[[pipelines.count.stages]]
name = "mood"
role = "mood"
take = { text = "number" }
give = { label = "label" }
""")
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

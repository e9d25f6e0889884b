"""Says which models the standard doors offer: roles by their kind, and pipelines of text.

Pure. A role is a model under its own name and under that of the model it runs. A pipeline
that takes one text and gives one is a model too, so any chat client can talk to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from mesh.errors import NotFound
from mesh.roles import custom
from mesh.settings.topology import Pipeline, Topology

Found = TypeVar("Found")

GENERATE = "generate"
NO_TEXT = frozenset({"embed", "retrieve", "rerank", "tensor", "columns"})  # kinds that give no text


@dataclass(frozen=True, slots=True)
class Model:
    """Who answers under one name.

    Attributes:
        id: the name.
        role: the role, or "".
        pipeline: the pipeline, or "".
        input: the pipeline's field that takes the text.
        output: the field of role or pipeline that is the answer.
    """

    id: str
    role: str = ""
    pipeline: str = ""
    input: str = ""
    output: str = "answer"

    @property
    def label(self) -> str:
        """What metrics call it."""
        return self.pipeline or f"role {self.role}"


def of_kind(topology: Topology, kind: str) -> dict[str, Model]:
    """Return the models that are roles of a kind, by every name that they have."""
    roles = {name: role for name, role in topology.roles.items() if role.kind == kind}
    found = {name: Model(name, role=name) for name in roles}
    for name, role in roles.items():
        if role.model and role.model not in found:
            found[role.model] = Model(role.model, role=name)
    return found


def of_text(topology: Topology, input_types: Mapping[str, Mapping[str, Any]]) -> dict[str, Model]:
    """Return the models that answer a text with a text; a role goes before a pipeline.

    Args:
        topology: the one in force.
        input_types: of each pipeline, as far as they are known.
    """
    found = of_kind(topology, GENERATE)
    for name, pipeline in topology.pipelines.items():
        types = input_types.get(name, {})
        output = _text_of(topology, pipeline)
        if len(pipeline.input) != 1 or not output or name in found:
            continue
        kind = types.get(pipeline.input[0], str)
        if kind is Any or kind is str or str in get_args(kind):
            found[name] = Model(name, pipeline=name, input=pipeline.input[0], output=output)
    return found


def chosen(found: Mapping[str, Found], name: str) -> Found:
    """Return what is known under this name.

    Raises:
        NotFound: there is none.
    """
    model = found.get(name)
    if model is None:
        known = ", ".join(found) or "none"
        raise NotFound(f"no model {name[:80]!r} for this; there are: {known}", param="model")
    return model


def _text_of(topology: Topology, pipeline: Pipeline) -> str:
    """Return which output is the text: what is streamed, or else the only one; "" if neither."""
    kinds = {
        field: topology.roles[stage.role].kind
        for stage in pipeline.stages
        for field in stage.give.values()
    }
    texts = [field for field in pipeline.output if kinds.get(field) not in NO_TEXT]
    streamed = [field for field in texts if custom.is_streaming(kinds.get(field, ""))]
    if len(streamed) == 1:
        return streamed[0]
    return texts[0] if len(pipeline.output) == len(texts) == 1 else ""

"""What roles and pipelines take, as far as it can be seen from this machine.

Shell: looks up the classes of roles; a user's class may be on other machines only.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.api.parts import Types
from mesh.errors import SetupError
from mesh.roles import custom
from mesh.settings.topology import Topology


def of_roles(topology: Topology) -> dict[str, Types]:
    """Return the fields of each role with their types; none for a class that is not here."""
    found: dict[str, Types] = {}
    for name, role in topology.roles.items():
        try:
            found[name] = dict(custom.find(role.kind).takes)
        except SetupError:
            found[name] = {}
    return found


def of_pipelines(topology: Topology, role_types: Mapping[str, Types]) -> dict[str, Types]:
    """Return the types of each pipeline's input, as the first stage that takes a field has it."""
    found: dict[str, Types] = {}
    for name, pipeline in topology.pipelines.items():
        types: dict[str, object] = {}
        for stage in reversed(pipeline.stages):
            takes = role_types.get(stage.role, {})
            types |= {field: takes[own] for own, field in stage.take.items() if own in takes}
        found[name] = {field: types[field] for field in pipeline.input if field in types}
    return found

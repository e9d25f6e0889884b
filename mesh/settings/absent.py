"""Tells which models that a node needs are not on its machine: those to mend, those to fetch.

Shell: looks at files; of `python -m mesh --check`. A path that is not there is a mistake of
the settings or of the machine; a wheel or a repository that is not there is fetched by a command.
"""

from __future__ import annotations

from mesh.errors import SetupError
from mesh.models.sources import Local, locate, parse
from mesh.settings.load import Settings, may_run
from mesh.settings.report import Report, Source


def absent(settings: Settings) -> tuple[list[str], list[str]]:
    """Return problems and notes, a line each with its place in the topology.

    A path is a problem where the node is named, as it will not start without. Where the ring
    chooses, other nodes may have it, and it is a note.
    """
    file = Source(str(settings.node.topology), settings.topology_text)
    problems, notes = Report(), Report()
    name, roles = settings.node.name, settings.topology.roles.values()
    wanted = {role.model for role in roles if role.model and may_run(role, name)}
    named = {role.model for role in roles if name in role.nodes}
    for model in sorted(wanted):
        source = settings.topology.models[model]
        try:
            locate(source.source, source.sha256)
        except SetupError as error:
            is_fatal = model in named and isinstance(parse(source.source), Local)
            report = problems if is_fatal else notes
            for problem in error.problems:
                report.note(file, f"models.{model}.source", problem)
    return problems.problems, notes.problems

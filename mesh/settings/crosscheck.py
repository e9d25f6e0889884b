"""Says whether the parts of a topology fit together: names, graphs, roles and their kinds.

Pure. Works on a complete `Topology`, so what it finds are faults between tables,
not within one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Protocol, get_args

from mesh.policy.plan import problems
from mesh.settings.report import Report, Source, meant, one_of
from mesh.settings.topology import Role, Scale, Stage, Topology


class Kind(Protocol):
    """What a role's class says about itself; `mesh.roles.base.Role` fits."""

    takes: Mapping[str, Any]
    gives: tuple[str, ...]
    options: Mapping[str, Any]


def crosscheck(
    topology: Topology, kinds: Mapping[str, Kind], source: Source, report: Report
) -> None:
    """Report every fault between the tables of `topology`.

    Args:
        topology: the complete tree.
        kinds: per role name what its class says; roles left out are not looked into.
        source: the file, for messages.
        report: takes the notes.
    """
    for name, role in topology.roles.items():
        _role(topology, name, role, source, report)
        if name in kinds:
            _options(name, role, kinds[name], source, report)
    for name, pipeline in topology.pipelines.items():
        for problem in problems(pipeline, topology.roles):
            report.note(source, f"pipelines.{name}", problem)
        for index, stage in enumerate(pipeline.stages):
            if stage.role in kinds:
                key = f"pipelines.{name}.stages.{index}"
                _stage(key, stage, kinds[stage.role], source, report)


def is_optional(kind: Any) -> bool:
    """Return whether a field of this type may be left out: `X | None`."""
    return NoneType in get_args(kind)


def _unknown(
    key: str, found: str, known: Iterable[str], source: Source, report: Report, what: str = ""
) -> None:
    known = list(known)
    report.add(source, key, what or one_of(known), repr(found), meant(found, known))


def _role(topology: Topology, name: str, role: Role, source: Source, report: Report) -> None:
    key = f"roles.{name}"
    if role.model and role.model not in topology.models:
        _unknown(f"{key}.model", role.model, topology.models, source, report)
    for node in role.nodes:
        if topology.mesh.nodes and node not in topology.mesh.nodes:
            _unknown(f"{key}.nodes", node, topology.mesh.nodes, source, report)
    if role.layers is not None:
        _chains(key, role, source, report)
    elif role.nodes and role.replicas:
        report.add(source, f"{key}.replicas", "either nodes or replicas", "both")
    elif not role.nodes and not role.replicas:
        report.add(source, f"{key}.nodes", "nodes = […] or replicas = n", "neither")
    if isinstance(role.replicas, Scale) and role.replicas.min > role.replicas.max:
        found = f"min = {role.replicas.min}, max = {role.replicas.max}"
        report.add(source, f"{key}.replicas", "min up to max", found)
    _versions(topology, key, role, source, report)
    for node, times in Counter(role.nodes).items():
        if times > 1:
            report.add(source, f"{key}.nodes", "each node once", f"{node!r} {times} times")


def _chains(key: str, role: Role, source: Source, report: Report) -> None:
    if role.lane == "process":
        what = "'thread': split layers work with other nodes' at each step"
        report.add(source, f"{key}.lane", what, "'process'")
    if not role.nodes:
        report.add(source, f"{key}.nodes", "the nodes that share the layers", "none")
    elif isinstance(role.replicas, Scale):
        report.add(source, f"{key}.replicas", "a number of chains", "min and max")
    elif role.replicas > len(role.nodes):
        what = f"at most {len(role.nodes)} chains, one for each node"
        report.add(source, f"{key}.replicas", what, str(role.replicas))


def _versions(topology: Topology, key: str, role: Role, source: Source, report: Report) -> None:
    for name, version in role.versions.items():
        if version.role not in topology.roles:
            _unknown(f"{key}.versions.{name}.role", version.role, topology.roles, source, report)
    total = sum(version.share for version in role.versions.values() if not version.shadow)
    if total > 1.0:
        report.add(source, f"{key}.versions", "shares of at most 1 together", f"{total:g}")


def _options(name: str, role: Role, kind: Kind, source: Source, report: Report) -> None:
    known = [*(field for field in Role.__struct_fields__ if field != "options"), *kind.options]
    for option in role.options:
        if option not in kind.options:
            key = f"roles.{name}.{option}"
            expected = one_of(kind.options) if kind.options else "no options"
            what = f"{expected} (options of kind {role.kind!r})"
            _unknown(key, option, known, source, report, what)
    if role.key and kind.takes and role.key not in kind.takes:
        _unknown(f"roles.{name}.key", role.key, kind.takes, source, report)


def _stage(key: str, stage: Stage, kind: Kind, source: Source, report: Report) -> None:
    if kind.takes:
        for field in stage.take:
            if field not in kind.takes:
                _unknown(f"{key}.take", field, kind.takes, source, report)
        for field, its_type in kind.takes.items():
            if field not in stage.take and not is_optional(its_type):
                report.add(source, f"{key}.take", f"{field!r}, which the role needs", "nothing")
    if kind.gives:
        for field in stage.give:
            if field not in kind.gives:
                _unknown(f"{key}.give", field, kind.gives, source, report)

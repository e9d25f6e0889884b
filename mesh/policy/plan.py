"""Which stages of a pipeline can run: those whose fields all exist.

Pure. A `Graph` follows from what stages take and give, once per topology; a
`Plan` follows one request through it. `flow.pipeline` runs the stages, and
`settings.load` reports `problems`.

    query --> embed --> query_vector --> retrieve --> ids --> rerank --> documents --> ...

Rules:
1. A field has one giver: the caller, or one stage.
2. A stage starts when every field that it takes exists, and only once.
3. A pipeline is done when every stage is.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Protocol

from mesh.errors import Unprocessable

STAGES_MAX = 64  # a pipeline that a person can still read; each stage may be a network hop


class StageLike(Protocol):
    """What is needed of `settings.topology.Stage`, which lies above this package."""

    @property
    def name(self) -> str:
        """Name of the stage, unique in its pipeline."""

    @property
    def role(self) -> str:
        """Name of the role that it calls."""

    @property
    def take(self) -> Mapping[str, str]:
        """Pipeline's field by role's field."""

    @property
    def give(self) -> Mapping[str, str]:
        """Pipeline's field by role's field."""


class PipelineLike(Protocol):
    """What is needed of `settings.topology.Pipeline`."""

    @property
    def input(self) -> Sequence[str]:
        """Fields that the caller gives."""

    @property
    def output(self) -> Sequence[str]:
        """Fields that the caller gets."""

    @property
    def stages(self) -> Sequence[StageLike]:
        """Stages in the order of the file."""


def problems(pipeline: PipelineLike, roles: Container[str]) -> list[str]:
    """Return everything that is wrong with the graph, one sentence each; [] when it can run."""
    found = _name_problems(pipeline, roles)
    givers = _givers(pipeline)
    found += _giver_problems(givers)
    for stage in pipeline.stages:
        found += [
            f"stage {stage.name!r} takes {source!r}, which nothing gives; {_known(givers)}"
            for source in dict.fromkeys(stage.take.values())
            if source not in givers
        ]
    found += [
        f"output {name!r} is given by no stage and is no input; {_known(givers)}"
        for name in pipeline.output
        if name not in givers
    ]
    cycle = _cycle(pipeline.stages, givers)
    if cycle:
        found.append(f"stages wait for each other in a circle: {' -> '.join(cycle)}")
    return found


class Graph:
    """One pipeline, ready to be followed by any number of requests.

    Attributes:
        stages: in the order of the file.
        consumers: for each field, the stages that take it.
    """

    def __init__(self, pipeline: PipelineLike) -> None:
        assert not problems(pipeline, _Anything()), "validate a pipeline before running it"
        self.input = tuple(pipeline.input)
        self._names = set(self.input)
        self.output = tuple(pipeline.output)
        self.stages = tuple(pipeline.stages)
        self.consumers: dict[str, list[int]] = {}
        self.needs = [len(set(stage.take.values())) for stage in self.stages]
        for index, stage in enumerate(self.stages):
            for source in set(stage.take.values()):
                self.consumers.setdefault(source, []).append(index)

    def check_input(self, fields: Mapping[str, Any]) -> None:
        """Raise `Unprocessable` unless exactly the input's fields are there."""
        if fields.keys() == self._names:
            return
        missing = [name for name in self.input if name not in fields]
        unknown = [name for name in fields if name not in self.input]
        if missing:
            raise Unprocessable(f"missing {_names(missing)}; expected {_names(self.input)}")
        if unknown:
            raise Unprocessable(f"unknown {_names(unknown)}; expected {_names(self.input)}")


class Plan:
    """One request on its way through a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.fields: dict[str, Any] = {}
        self._needs = list(graph.needs)
        self._started = [False] * len(graph.stages)
        self._finished_count = 0

    @property
    def is_done(self) -> bool:
        """Whether every stage has finished."""
        return self._finished_count == len(self.graph.stages)

    def begin(self, fields: Mapping[str, Any]) -> list[int]:
        """Take the caller's fields and return the stages that can start."""
        ready = [index for index, need in enumerate(self._needs) if need == 0]
        for index in ready:
            self._started[index] = True
        return ready + self._add(fields)

    def item(self, index: int) -> dict[str, Any]:
        """Return what a stage's role takes, under the role's names."""
        stage = self.graph.stages[index]
        return {target: self.fields[source] for target, source in stage.take.items()}

    def finish(self, index: int, fields: Mapping[str, Any]) -> list[int]:
        """Take what a stage's role gave, and return the stages that can now start.

        Raises:
            KeyError: the role did not give a field which the stage promises.
        """
        assert self._started[index], "a stage that never started cannot finish"
        give = self.graph.stages[index].give
        self._finished_count += 1
        return self._add({target: fields[source] for source, target in give.items()})

    def output(self) -> dict[str, Any]:
        """Return the output's fields, in the order of the file."""
        return {name: self.fields[name] for name in self.graph.output}

    def check(self) -> None:
        """Assert that what has started had its fields, and that counts agree."""
        for index, stage in enumerate(self.graph.stages):
            missing = [name for name in set(stage.take.values()) if name not in self.fields]
            assert self._needs[index] == len(missing)
            assert not (self._started[index] and missing)
        assert self._finished_count <= sum(self._started)

    def _add(self, fields: Mapping[str, Any]) -> list[int]:
        ready = []
        for name, value in fields.items():
            assert name not in self.fields, f"field {name!r} has two givers"
            self.fields[name] = value
            for index in self.graph.consumers.get(name, ()):
                self._needs[index] -= 1
                if self._needs[index] == 0:
                    self._started[index] = True
                    ready.append(index)
        return ready


class _Anything:
    def __contains__(self, name: object) -> bool:
        return True


def _name_problems(pipeline: PipelineLike, roles: Container[str]) -> list[str]:
    found = []
    names = [stage.name for stage in pipeline.stages]
    if not names:
        found.append("a pipeline needs at least one stage")
    if len(names) > STAGES_MAX:
        found.append(f"{len(names)} stages are more than {STAGES_MAX}")
    found += [f"two stages are called {name!r}" for name in _twice(names)]
    found += [f"input {name!r} is named twice" for name in _twice(pipeline.input)]
    found += [
        f"stage {stage.name!r} calls role {stage.role!r}, which is not in [roles]"
        for stage in pipeline.stages
        if stage.role not in roles
    ]
    return found


def _givers(pipeline: PipelineLike) -> dict[str, list[str]]:
    givers: dict[str, list[str]] = {name: ["the input"] for name in pipeline.input}
    for stage in pipeline.stages:
        for target in stage.give.values():
            givers.setdefault(target, []).append(f"stage {stage.name!r}")
    return givers


def _giver_problems(givers: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"field {name!r} is given by {' and by '.join(names)}; a field has one giver"
        for name, names in givers.items()
        if len(names) > 1
    ]


def _cycle(stages: Sequence[StageLike], givers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names along one circle, closed, or [] when there is none."""
    known = {name for name in givers if "the input" in givers[name]}
    waiting = list(stages)
    while True:
        ready = [s for s in waiting if all(f in known or f not in givers for f in s.take.values())]
        if not ready:
            break
        known.update(target for stage in ready for target in stage.give.values())
        waiting = [stage for stage in waiting if stage not in ready]
    return _walk(waiting, known) if waiting else []


def _walk(waiting: Sequence[StageLike], known: Container[str]) -> list[str]:
    """Follow each waiting stage to one that it waits for, until a name comes twice."""
    giver = {target: stage for stage in waiting for target in stage.give.values()}
    path: list[str] = []
    stage = waiting[0]
    while stage.name not in path:
        path.append(stage.name)
        stage = next(giver[f] for f in stage.take.values() if f not in known and f in giver)
    circle = path[path.index(stage.name) :]
    return [*reversed(circle), circle[-1]]


def _twice(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def _known(givers: Mapping[str, object]) -> str:
    return f"there are {_names(givers)}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"

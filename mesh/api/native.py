"""The mesh's own doors: pipelines, single roles, and what there is.

Shell: each handler turns a body into fields, hands them on, and turns what comes
back into an answer. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Container
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from aiohttp import web
from msgspec import to_builtins

from mesh.api import answer, events, intake
from mesh.api.parts import PARTS, Parts
from mesh.api.whole import Whole
from mesh.errors import MeshError, NotFound
from mesh.flow.pipeline import FieldReady, Outcome, Tell, TokenPiece
from mesh.gossip.member import Member, Status
from mesh.net.serving import Cancellable
from mesh.observe.traces import Trace
from mesh.policy.request import Request
from mesh.wire.messages import Fields

Flow = AsyncIterator[FieldReady | TokenPiece | Outcome]


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.post("/v1/pipelines/{name}", run_pipeline),
        web.get("/v1/pipelines", list_pipelines),
        web.post("/v1/roles/{name}", run_role),
        web.get("/v1/roles", list_roles),
        web.get("/v1/members", list_members),
        web.get("/v1/traces/{id}", get_trace),
        web.get("/topology", get_topology),
    ]


class Taken(NamedTuple):
    """What a body says beside its fields."""

    asked: Request
    is_named: bool  # its id is the caller's choice, in the body
    wants_events: bool


class Door(Protocol):
    """What a native route leads to: the same for aiohttp's handlers and for `api.front`."""

    @property
    def label(self) -> str:
        """Its name among the metrics."""

    @property
    def deadline_s(self) -> float:
        """Time for callers that name none; 0: the node's limit."""

    def check(self) -> None:
        """Raise `NotFound` if the topology has no such thing."""

    def own(self) -> Container[str]:
        """Return the names of its input's fields."""

    def typed(self, body: dict[str, Any]) -> Fields:
        """Return the body's fields, checked."""

    def run(self, fields: Fields, taken: Taken) -> Awaitable[Outcome]:
        """Answer."""

    def start(self, fields: Fields, taken: Taken, tell: Tell) -> Cancellable | None:
        """Begin to answer without a task; None if only `run` can."""

    def stream(self, fields: Fields, taken: Taken) -> Flow:
        """Answer part by part."""


class PipelineDoor:
    """A pipeline."""

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts = parts
        self._name = self.label = name

    @property
    def deadline_s(self) -> float:
        """Time for callers that name none."""
        pipeline = self._parts.topology.pipelines.get(self._name)
        return pipeline.deadline_s if pipeline else 0.0

    def check(self) -> None:
        """Raise `NotFound` if the topology has no such pipeline."""
        known = self._parts.topology.pipelines
        if self._name not in known:
            raise NotFound(f"no pipeline {self._name[:80]!r}; there are: {_names(known)}")

    def own(self) -> Container[str]:
        """Return the names of its input's fields."""
        return self._parts.topology.pipelines[self._name].input

    def typed(self, body: dict[str, Any]) -> Fields:
        """Return the body's fields, of the types that its stages take."""
        return intake.typed(body, self._parts.input_types.get(self._name, {}))

    def run(self, fields: Fields, taken: Taken) -> Awaitable[Outcome]:
        """Answer; once, if the caller chose the id in the body."""
        run = self._parts.once.run if taken.is_named else self._parts.pipelines.run
        return run(self._name, fields, taken.asked)

    def start(self, fields: Fields, taken: Taken, tell: Tell) -> Cancellable | None:
        """Return None: stages wait for each other."""
        return None

    def stream(self, fields: Fields, taken: Taken) -> Flow:
        """Answer part by part."""
        return self._parts.pipelines.stream(self._name, fields, taken.asked)


class RoleDoor:
    """One role, as a pipeline of one stage."""

    deadline_s = 0.0

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts = parts
        self._name, self.label = name, f"role {name}"

    def check(self) -> None:
        """Raise `NotFound` if the topology has no such role."""
        known = self._parts.topology.roles
        if self._name not in known:
            raise NotFound(f"no role {self._name[:80]!r}; there are: {_names(known)}")

    def own(self) -> Container[str]:
        """Return the names of the role's fields."""
        return self._parts.role_types.get(self._name, ())

    def typed(self, body: dict[str, Any]) -> Fields:
        """Return the body: the role checks it where it runs."""
        return body

    def run(self, fields: Fields, taken: Taken) -> Awaitable[Outcome]:
        """Answer."""
        return self._parts.pipelines.run_role(self._name, fields, taken.asked)

    def start(self, fields: Fields, taken: Taken, tell: Tell) -> Cancellable | None:
        """Begin to answer."""
        return self._parts.pipelines.start_role(self._name, fields, taken.asked, tell)

    def stream(self, fields: Fields, taken: Taken) -> Flow:
        """Answer part by part."""
        return self._parts.pipelines.stream_role(self._name, fields, taken.asked)


def take(door: Door, body: dict[str, Any], asked: Request) -> Taken:
    """Take `stream` and `request_id` out of a body, unless they are fields of its own."""
    own, wants_events = door.own(), False
    if "stream" in body and "stream" not in own:
        wants_events = intake.flag_of(body, "stream")
    is_named = "request_id" in body and "request_id" not in own
    if is_named:
        asked = intake.renamed(asked, intake.id_of(body, asked.id))
    return Taken(asked, is_named, wants_events)


def told(parts: Parts, label: str, outcome: Outcome) -> bytes:
    """Return an outcome as its caller reads it, kept and counted."""
    note(parts, label, outcome.trace)
    return answer.encode({**outcome.fields, "trace": outcome.trace})


async def run_pipeline(request: web.Request) -> web.StreamResponse:
    """Answer a pipeline's input with its output and trace, at once or as events."""
    return await _run(request, PipelineDoor(request.app[PARTS], request.match_info["name"]))


async def run_role(request: web.Request) -> web.StreamResponse:
    """Answer one role's item."""
    return await _run(request, RoleDoor(request.app[PARTS], request.match_info["name"]))


async def _run(request: web.Request, door: Door) -> web.StreamResponse:
    parts = request.app[PARTS]
    door.check()
    asked = intake.request_of(request, door.deadline_s)
    with parts.admission.admit(asked):
        body = await intake.body_of(request, asked.deadline_s)
        taken = take(door, body, asked)
        request[intake.REQUEST_ID] = taken.asked.id
        fields = door.typed(body)
        if taken.wants_events or answer.EVENTS in request.headers.get("Accept", ""):
            return await send_events(request, taken.asked, door.label, door.stream(fields, taken))
        with counted(parts, door.label):
            outcome = await door.run(fields, taken)
        return Whole(told(parts, door.label, outcome))


async def list_pipelines(request: web.Request) -> web.Response:
    """Return every pipeline with its fields and stages."""
    pipelines = request.app[PARTS].topology.pipelines
    return answer.json(
        {
            "pipelines": [
                {
                    "name": name,
                    "input": pipeline.input,
                    "output": pipeline.output,
                    "stages": [
                        {"name": s.name, "role": s.role, "take": s.take, "give": s.give}
                        for s in pipeline.stages
                    ],
                }
                for name, pipeline in pipelines.items()
            ]
        }
    )


async def list_roles(request: web.Request) -> web.Response:
    """Return every role with where it is meant to be and where it is."""
    parts = request.app[PARTS]
    return answer.json(
        {
            "roles": [
                {
                    "name": name,
                    "kind": role.kind,
                    "model": role.model,
                    "route": role.route,
                    "nodes": role.nodes,
                    "replicas": to_builtins(role.replicas),
                    "serving": serving(parts.members(), name),
                    "takes": list(parts.role_types.get(name, {})),
                }
                for name, role in parts.topology.roles.items()
            ]
        }
    )


async def list_members(request: web.Request) -> web.Response:
    """Return the mesh as this node sees it."""
    parts = request.app[PARTS]
    return answer.json({"seen_by": parts.settings.name, "members": members_of(parts.members())})


async def get_trace(request: web.Request) -> web.Response:
    """Return where the time of one request went."""
    trace_id = request.match_info["id"]
    trace = request.app[PARTS].traces.get(trace_id)
    if trace is None:
        raise NotFound(f"no trace {trace_id[:128]!r} here: never seen by this door, or forgotten")
    return answer.json(trace)


async def get_topology(request: web.Request) -> web.Response:
    """Return the topology in force, as its file says it."""
    parts = request.app[PARTS]
    if "application/toml" in request.headers.get("Accept", ""):
        return web.Response(text=parts.topology_text, content_type="application/toml")
    mesh = parts.topology.mesh
    return answer.json({"name": mesh.name, "epoch": mesh.epoch, "toml": parts.topology_text})


def members_of(members: tuple[Member, ...]) -> list[dict[str, Any]]:
    """Return members as `/v1/members` and `/stats` show them."""
    return [
        {
            "id": member.id,
            "name": member.facts.name,
            "status": member.status.name.lower(),
            "incarnation": member.incarnation,
            "peer": member.address,
            "http": member.facts.http,
            "roles": member.facts.roles,
            "load_s": round(member.facts.load, 4),
            "draining": member.facts.draining,
            "zone": member.facts.zone,
            "topology_epoch": member.facts.topology_epoch,
        }
        for member in sorted(members, key=lambda member: (member.facts.name, -member.boot))
    ]


def serving(members: tuple[Member, ...], role: str) -> list[str]:
    """Return the names of the live members that have a role loaded."""
    return sorted(
        member.facts.name
        for member in members
        if member.status in (Status.ALIVE, Status.SUSPECT) and role in member.facts.roles
    )


def note(parts: Parts, name: str, trace: Trace) -> None:
    """Keep and count the trace of a finished request."""
    parts.traces.add(trace)
    parts.metrics.observe_trace(name, trace)


def count_failure(parts: Parts, name: str, error: MeshError) -> None:
    """Count a request that a pipeline or role answered with an error."""
    parts.metrics.pipeline_failures.labels(name, error.code).inc()


class counted:
    """A block that counts what fails inside; what goes well is counted with its trace."""

    __slots__ = ("_name", "_parts")

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts, self._name = parts, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, MeshError):
            count_failure(self._parts, self._name, error)


async def send_events(
    request: web.Request, asked: Request, name: str, flow: Flow
) -> web.StreamResponse:
    """Send a pipeline's answer as it comes."""

    def failure(error: MeshError) -> bytes:
        return answer.event("error", answer.error_body(error, asked.id))

    return await events.send(request, asked, _events(request.app[PARTS], name, flow), failure)


async def _events(parts: Parts, name: str, flow: Flow) -> AsyncGenerator[bytes, None]:
    async with aclosing(flow):  # type: ignore[type-var]
        with counted(parts, name):
            async for part in flow:
                yield _event(parts, name, part)


def _event(parts: Parts, name: str, part: FieldReady | TokenPiece | Outcome) -> bytes:
    if isinstance(part, TokenPiece):
        return answer.event("token", {"field": part.field, "text": part.text})
    if isinstance(part, FieldReady):
        return answer.event("field", {"name": part.name, "value": part.value})
    note(parts, name, part.trace)
    return answer.event("done", {**part.fields, "trace": part.trace})


def _names(table: Any) -> str:
    return ", ".join(sorted(table)) or "none"

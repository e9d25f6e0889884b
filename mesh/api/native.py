"""The mesh's own doors: pipelines, single roles, and what there is.

Shell: each handler turns a body into fields, hands them on, and turns what comes
back into an answer. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Container
from contextlib import aclosing
from typing import Any

from aiohttp import web
from msgspec import to_builtins

from mesh.api import answer, events, intake
from mesh.api.parts import PARTS, Parts
from mesh.api.whole import Whole
from mesh.errors import MeshError, NotFound
from mesh.flow.pipeline import FieldReady, Outcome, TokenPiece
from mesh.gossip.member import Member, Status
from mesh.observe.traces import Trace
from mesh.policy.request import Request

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


async def run_pipeline(request: web.Request) -> web.StreamResponse:
    """Answer a pipeline's input with its output and trace, at once or as events."""
    parts, name = request.app[PARTS], request.match_info["name"]
    pipeline = parts.topology.pipelines.get(name)
    if pipeline is None:
        raise NotFound(f"no pipeline {name[:80]!r}; there are: {_names(parts.topology.pipelines)}")
    asked = intake.request_of(request, pipeline.deadline_s)
    with parts.admission.admit(asked):
        body = await intake.body_of(request, asked.deadline_s)
        is_named = "request_id" in body and "request_id" not in pipeline.input
        run = parts.once.run if is_named else parts.pipelines.run
        wants_events, asked = _taken(request, body, asked, pipeline.input)
        fields = intake.typed(body, parts.input_types.get(name, {}))
        if wants_events:
            return await send_events(
                request, asked, name, parts.pipelines.stream(name, fields, asked)
            )
        with counted(parts, name):
            outcome = await run(name, fields, asked)
        note(parts, name, outcome.trace)
        return Whole(answer.encode({**outcome.fields, "trace": outcome.trace}))


async def run_role(request: web.Request) -> web.StreamResponse:
    """Answer one role's item."""
    parts, name = request.app[PARTS], request.match_info["name"]
    if name not in parts.topology.roles:
        raise NotFound(f"no role {name[:80]!r}; there are: {_names(parts.topology.roles)}")
    asked = intake.request_of(request)
    with parts.admission.admit(asked):
        body = await intake.body_of(request, asked.deadline_s)
        wants_events, asked = _taken(request, body, asked, parts.role_types.get(name, ()))
        if wants_events:
            flow = parts.pipelines.stream_role(name, body, asked)
            return await send_events(request, asked, f"role {name}", flow)
        with counted(parts, f"role {name}"):
            outcome = await parts.pipelines.run_role(name, body, asked)
        note(parts, f"role {name}", outcome.trace)
        return Whole(answer.encode({**outcome.fields, "trace": outcome.trace}))


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


class counted:
    """A block that counts what fails inside; what goes well is counted with its trace."""

    __slots__ = ("_name", "_parts")

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts, self._name = parts, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, MeshError):
            self._parts.metrics.pipeline_failures.labels(self._name, error.code).inc()


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


def _taken(
    request: web.Request, body: dict[str, Any], asked: Request, own: Container[str]
) -> tuple[bool, Request]:
    """Take `stream` and `request_id` out of the body, unless they are fields of the pipeline."""
    wants_events = "stream" in body and "stream" not in own and intake.flag_of(body, "stream")
    wants_events = wants_events or answer.EVENTS in request.headers.get("Accept", "")
    if "request_id" not in own and "request_id" in body:
        asked = intake.renamed(asked, intake.id_of(body, asked.id))
        request[intake.REQUEST_ID] = asked.id
    return wants_events, asked


def _names(table: Any) -> str:
    return ", ".join(sorted(table)) or "none"

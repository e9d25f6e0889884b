"""Doors with the exact contracts of earlier projects, so that their clients work unchanged.

Shell. `POST /query` asks the pipeline `ask` and has its own shapes of answers and
errors; a request id that is already in flight joins the first request. `POST
/api/model/process` gives a text to the language model, split or whole.
"""

from __future__ import annotations

import time
from types import NoneType
from typing import Any

from aiohttp import web

from mesh.api import answer, catalog, intake
from mesh.api.guard import SHAPE
from mesh.api.native import counted, note
from mesh.api.parts import PARTS, Parts
from mesh.errors import (
    BadRequest,
    DeadlineExceeded,
    MeshError,
    NoOwner,
    NotFound,
    PeerError,
    TooLarge,
    Unprocessable,
)
from mesh.policy.request import Request

QUERY_PIPELINE = "ask"
QUERY_DEADLINE_S = 300.0  # what that client waits
ID_CHARS_MAX = 256


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [web.post("/query", query), web.post("/api/model/process", process)]


async def query(request: web.Request) -> web.Response:
    """Answer `{"request_id", "query"}` with exactly four keys."""
    request[SHAPE] = _query_error
    parts = request.app[PARTS]
    if QUERY_PIPELINE not in parts.topology.pipelines:
        raise NotFound(f"this mesh has no pipeline {QUERY_PIPELINE!r}")
    asked = intake.request_of(request, QUERY_DEADLINE_S)
    with parts.admission.admit(asked):
        body = await intake.body_of(request, asked.deadline_s)
        request_id, text = _query_fields(body)
        asked = intake.renamed(asked, request_id)
        fields = await _ask(parts, text, asked)
    toxic = fields["is_toxic"]
    return answer.json(
        {
            "request_id": request_id,
            "generated_response": fields["answer"],
            "sentiment": fields["sentiment"],
            "is_toxic": toxic if isinstance(toxic, str) else str(bool(toxic)).lower(),
        }
    )


async def process(request: web.Request) -> web.Response:
    """Answer `{"text", "metadata"}` with the model's text, the time, and how many nodes worked."""
    request[SHAPE] = _process_error
    parts = request.app[PARTS]
    asked = intake.request_of(request)
    began_s = time.monotonic()
    with parts.admission.admit(asked):
        text = _process_text(await _process_body(request, asked))
        roles = catalog.of_kind(parts.topology, catalog.GENERATE)
        if not roles:
            raise NoOwner("no part of a model has a node: the topology has no role that generates")
        model = next(iter(roles.values()))
        try:
            with counted(parts, model.label):
                outcome = await parts.pipelines.run_role(model.role, {"text": text}, asked)
        except PeerError as error:  # this contract knows one word for a part that is not there
            raise NoOwner(error.message, node=error.node, role=error.role) from error
        except TooLarge as error:
            raise Unprocessable(error.message, role=error.role) from error
    note(parts, model.label, outcome.trace)
    role = parts.topology.roles[model.role]
    took_ms = round((time.monotonic() - began_s) * 1000.0, 2)
    count = len(role.nodes) if role.layers is not None and role.nodes else 1
    said = outcome.fields["answer"]
    return answer.json({"text": said, "processingTime": took_ms, "nodeCount": count})


async def _process_body(request: web.Request, asked: Request) -> dict[str, Any]:
    try:
        return await intake.body_of(request, asked.deadline_s)
    except BadRequest as error:  # this contract calls every wrong body unprocessable
        raise Unprocessable(error.message) from error


def _process_text(body: dict[str, Any]) -> str:
    text = body.get("text")
    if not isinstance(text, str) or not text.strip():
        raise Unprocessable("text must be a string that is not empty")
    if not isinstance(body.get("metadata", {}), dict | NoneType):
        raise Unprocessable("metadata must be an object")
    return text


def _process_error(error: MeshError) -> dict[str, Any]:
    return {"detail": error.message}


async def _ask(parts: Parts, text: str, asked: Request) -> dict[str, Any]:
    with counted(parts, QUERY_PIPELINE):
        outcome = await parts.once.run(QUERY_PIPELINE, {"query": text}, asked)
    note(parts, QUERY_PIPELINE, outcome.trace)
    return outcome.fields


def _query_fields(body: dict[str, Any]) -> tuple[str, str]:
    request_id, text = body.get("request_id"), body.get("query")
    if request_id in (None, "") or text in (None, ""):
        raise BadRequest("Missing request_id or query")
    if not isinstance(request_id, str) or not isinstance(text, str):
        raise Unprocessable("request_id and query must be strings")
    if len(request_id) > ID_CHARS_MAX:
        raise Unprocessable(f"request_id must have at most {ID_CHARS_MAX} characters")
    return request_id, text


def _query_error(error: MeshError) -> dict[str, Any]:
    is_late = isinstance(error, DeadlineExceeded)
    return {"error": "Request timeout" if is_late else error.message}

"""Doors with the exact contracts of earlier projects, so that their clients work unchanged.

Shell. `POST /query` asks the pipeline `ask` and has its own shapes of answers and
errors; a request id that is already in flight joins the first request.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from mesh.api import answer, intake
from mesh.api.guard import SHAPE
from mesh.api.native import counted, note
from mesh.api.parts import PARTS, Parts
from mesh.errors import BadRequest, DeadlineExceeded, MeshError, NotFound, Unprocessable
from mesh.policy.request import Request

QUERY_PIPELINE = "ask"
QUERY_DEADLINE_S = 300.0  # what that client waits
ID_CHARS_MAX = 256


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [web.post("/query", query)]


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

"""The door of the tensor engine: a body of megabytes goes to its worker as it came.

Shell. Only its first bytes are looked at, for the request's id and the model's name: the
ring needs the one, the choice of the role the other. The worker reads the rest, on its lane.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from mesh.api import answer, catalog, intake
from mesh.api.catalog import Model
from mesh.api.native import counted, note
from mesh.api.parts import PARTS, Parts
from mesh.api.whole import Whole
from mesh.errors import NotFound, Unprocessable
from mesh.settings.topology import Topology
from mesh.wire.messages import Fields

TENSOR, COLUMNS = "tensor", "columns"
OCTETS = "application/octet-stream"
SCAN_BYTES = 1024  # at both ends of a body: its numbers, which stand together, are most of it
_ID = re.compile(rb'"request_id"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]{1,128})"')
_MODEL = re.compile(rb'"model_name"\s*:\s*"([A-Za-z0-9_.:/-]{1,64})"')
_SHAPE = re.compile(r"[0-9]{1,9}(,[0-9]{1,9}){0,15}")


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [web.post("/infer", infer)]


async def infer(request: web.Request) -> web.StreamResponse:
    """Give a tensor to the engine: JSON, or float32 as `application/octet-stream`.

    Bytes have no place for names: those stand in the query, `?request_id=…&model_name=…`, and
    the shape in the header `X-Input-Shape`, if it is to be checked.
    """
    parts = request.app[PARTS]
    asked = intake.request_of(request)
    with parts.admission.admit(asked):
        raw = await intake.raw_of(request, asked.deadline_s)
        fields, named, model_name = _taken(request, raw)
        model = _model(parts, model_name)
        if named:
            asked = intake.renamed(asked, named)
            request[intake.REQUEST_ID] = named
        with counted(parts, model.label):
            outcome = await parts.pipelines.run_role(model.role, fields, asked)
    note(parts, model.label, outcome.trace)
    stage = outcome.trace["stages"][0]
    output = outcome.fields["output_data"]
    told = {
        "request_id": outcome.fields.get("request_id", asked.id),
        "output_data": output,
        "output_shape": output.shape,
        "inference_time_us": round(stage["ran_ms"] * 1000.0),
        "node_id": stage["node"],
    }
    if OCTETS in request.headers.get("Accept", ""):
        return _octets(told)
    return Whole(answer.encode(told))


def tensors(topology: Topology) -> dict[str, Model]:
    """Return the roles that answer whole tensors; those that hold a part of W do not."""
    whole = {
        name: model
        for name, model in catalog.of_kind(topology, TENSOR).items()
        if topology.roles[model.role].options.get("parts", 1) == 1
    }
    return catalog.of_kind(topology, COLUMNS) | whole


def _taken(request: web.Request, raw: bytes) -> tuple[Fields, str, str]:
    """Return what the role takes, and the names of request and model as far as they are seen."""
    if not request.headers.get("Content-Type", "").startswith(OCTETS):
        ends = raw if len(raw) <= 2 * SCAN_BYTES else raw[:SCAN_BYTES] + raw[-SCAN_BYTES:]
        named, model = _ID.search(ends), _MODEL.search(ends)
        fields: Fields = {"body": raw, "form": "json"}
        return fields, _text(named), _text(model)
    fields = {"body": raw, "form": "float32"}
    shape = request.headers.get("X-Input-Shape")
    if shape is not None:
        if not _SHAPE.fullmatch(shape):
            raise Unprocessable(f"X-Input-Shape: expected 1,224,224,3 or so, not {shape[:80]!r}")
        fields["input_shape"] = [int(side) for side in shape.split(",")]
    asked = request.query
    named_by = intake.request_id(asked["request_id"]) if "request_id" in asked else ""
    return fields, named_by, asked.get("model_name", "")


def _text(found: re.Match[bytes] | None) -> str:
    return found[1].decode() if found else ""


def _model(parts: Parts, name: str) -> Model:
    """Return the engine of this name; the only one answers to any, as its old clients expect."""
    known = tensors(parts.topology)
    if not known:
        raise NotFound("this mesh has no role of kind 'tensor' or 'columns'")
    roles = {model.role for model in known.values()}
    return next(iter(known.values())) if len(roles) == 1 else catalog.chosen(known, name)


def _octets(told: dict[str, Any]) -> web.Response:
    headers = {
        **answer.HEADERS,
        "X-Output-Shape": ",".join(map(str, told["output_shape"])),
        "X-Inference-Time-Us": str(told["inference_time_us"]),
        "X-Node-ID": told["node_id"],
    }
    body = told["output_data"].astype("<f4").tobytes()
    return web.Response(body=body, content_type=OCTETS, headers=headers)

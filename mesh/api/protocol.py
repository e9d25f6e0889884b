"""The doors of the Open Inference Protocol, version 2, with its binary extension.

Shell. Roles that take texts or numbers are models there. The first axis of every tensor is
the items: each is one item of the role's batches, wherever the others of its request go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from mesh.api import answer, catalog, intake
from mesh.api.catalog import Model
from mesh.api.native import serving
from mesh.api.parts import PARTS, Parts
from mesh.api.vectors import each
from mesh.errors import BadRequest, MeshError, NotFound
from mesh.wire.messages import Fields

HEAD = "Inference-Header-Content-Length"
OCTETS = "application/octet-stream"
ITEMS_MAX = 1024  # of one request
OWN = "1"  # the version that is the role itself


@dataclass(frozen=True, slots=True)
class Slot:
    """One input or output: its datatype, and its shape with -1 where it is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a kind of role takes and gives, in this protocol's words."""

    input: Slot
    outputs: tuple[Slot, ...]


_ENGINE = Signature(
    Slot("input_data", "FP32", (-1, -1)), (Slot("output_data", "FP32", (-1, 1000)),)
)
KINDS: Mapping[str, Signature] = {
    "tensor": _ENGINE,
    "columns": _ENGINE,
    "embed": Signature(Slot("text", "BYTES", (-1,)), (Slot("vector", "FP32", (-1, -1)),)),
    "classify": Signature(
        Slot("text", "BYTES", (-1,)),
        (
            Slot("label", "BYTES", (-1,)),
            Slot("score", "FP32", (-1,)),
            Slot("flagged", "BOOL", (-1,)),
        ),
    ),
}


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    model = "/v2/models/{name}"
    version = model + "/versions/{version}"
    both = [(path, path + "/ready", path + "/infer") for path in (model, version)]
    return [
        web.get("/v2", server),
        web.get("/v2/health/live", live),
        web.get("/v2/health/ready", ready),
        *(web.get(about, describe) for about, _, _ in both),
        *(web.get(state, model_ready) for _, state, _ in both),
        *(web.post(work, infer) for _, _, work in both),
    ]


def error_body(error: MeshError) -> dict[str, Any]:
    """Return the body of an error, as this protocol has it."""
    return {"error": error.message}


async def server(request: web.Request) -> web.Response:
    """Return what this server is, as the Open Inference Protocol asks."""
    name = request.app[PARTS].topology.mesh.name
    return answer.json({"name": name, "version": "2", "extensions": ["binary_tensor_data"]})


async def live(_request: web.Request) -> web.Response:
    """Say that the process lives, as the Open Inference Protocol asks."""
    return answer.json({"live": True})


async def ready(request: web.Request) -> web.Response:
    """Say whether this node may be sent requests, as the Open Inference Protocol asks."""
    is_ready = not request.app[PARTS].why_not_ready()
    return answer.json({"ready": is_ready}, 200 if is_ready else 503)


async def describe(request: web.Request) -> web.Response:
    """Return the tensors that a model takes and gives."""
    parts = request.app[PARTS]
    model, signature = _model(parts, request)
    versions = [OWN, *parts.topology.roles[_named(parts, request).role].versions]
    return answer.json(
        {
            "name": request.match_info["name"],
            "versions": versions,
            "platform": f"mesh_{parts.topology.roles[model.role].kind}",
            "inputs": [_told(signature.input)],
            "outputs": [_told(slot) for slot in signature.outputs],
        }
    )


async def model_ready(request: web.Request) -> web.Response:
    """Say whether some node serves a model."""
    parts = request.app[PARTS]
    model, _ = _model(parts, request)
    is_ready = bool(serving(parts.members(), model.role))
    body = {"name": request.match_info["name"], "ready": is_ready}
    return answer.json(body, 200 if is_ready else 503)


async def infer(request: web.Request) -> web.Response:
    """Run a model on tensors, in JSON or as bytes behind it."""
    from mesh.api import tensors  # NumPy comes with the first tensor

    parts = request.app[PARTS]
    asked = intake.request_of(request)
    with parts.admission.admit(asked):
        model, signature = _model(parts, request)
        raw = await intake.raw_of(request, asked.deadline_s)
        wanted, values = tensors.read(raw, _head_bytes(request))
        items = _items(signature.input, values)
        answers = await each(parts, model, items, asked)
    slots = {slot.name: slot.datatype for slot in signature.outputs}
    unknown = [one.name for one in wanted.outputs or () if one.name not in slots]
    if unknown:
        raise BadRequest(f"output {unknown[0][:80]!r}: expected one of {', '.join(slots)}")
    outputs = {name: [one[name] for one in answers] for name in slots}
    told, blobs = tensors.write(slots, outputs, wanted)
    named = {} if wanted.id is None else {"id": wanted.id}
    version = request.match_info.get("version", OWN)
    body = {"model_name": request.match_info["name"], "model_version": version, **named}
    head = answer.encode({**body, "outputs": told})
    if not blobs:
        return web.Response(body=head, headers={**answer.HEADERS, "Content-Type": answer.JSON})
    headers = {**answer.HEADERS, HEAD: str(len(head)), "Content-Type": OCTETS}
    return web.Response(body=b"".join((head, *blobs)), headers=headers)


def _named(parts: Parts, request: web.Request) -> Model:
    name = request.match_info["name"]
    found: dict[str, Model] = {}
    for kind in KINDS:
        for own, model in catalog.of_kind(parts.topology, kind).items():
            is_part = parts.topology.roles[model.role].options.get("parts", 1) != 1
            if not is_part:
                found.setdefault(own, model)
    return catalog.chosen(found, name)


def _model(parts: Parts, request: web.Request) -> tuple[Model, Signature]:
    """Return the model of the path, in the version of the path, with its tensors."""
    model = _named(parts, request)
    role = parts.topology.roles[model.role]
    version = request.match_info.get("version", OWN)
    if version != OWN:
        if version not in role.versions:
            known = ", ".join([OWN, *role.versions])
            raise NotFound(f"model {model.id!r} has no version {version[:80]!r}; it has {known}")
        model = Model(model.id, role=role.versions[version].role)
    return model, KINDS[role.kind]


def _head_bytes(request: web.Request) -> int | None:
    text = request.headers.get(HEAD)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise BadRequest(f"{HEAD}: expected a length, not {text[:40]!r}")
    return int(text)


def _items(slot: Slot, values: Mapping[str, Any]) -> list[Fields]:
    """Return the role's items: one for each row of the input."""
    if set(values) != {slot.name}:
        found = ", ".join(map(repr, values))
        raise BadRequest(f"inputs: expected {slot.name!r} alone, found {found}")
    rows = values[slot.name]
    is_text = isinstance(rows, list)
    if is_text != (slot.datatype == "BYTES"):
        raise BadRequest(f"input {slot.name!r}: expected datatype {slot.datatype}")
    if not is_text and (rows.ndim < len(slot.shape) or rows.dtype.kind not in "fiu"):
        what = f"expected numbers of {len(slot.shape)} axes or more: items, then what each is"
        raise BadRequest(f"input {slot.name!r}: {what}")
    if not 1 <= len(rows) <= ITEMS_MAX:
        raise BadRequest(f"input {slot.name!r}: expected 1 to {ITEMS_MAX} items, not {len(rows)}")
    return [{slot.name: row} for row in rows]


def _told(slot: Slot) -> dict[str, Any]:
    return {"name": slot.name, "datatype": slot.datatype, "shape": slot.shape}

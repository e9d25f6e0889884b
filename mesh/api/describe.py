"""Says in OpenAPI 3.1 what the doors take and give, from the router and the topology themselves.

Pure. A route without an entry here is listed with its docstring; a test compares
the two lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from aiohttp import web

from mesh.api import openai_form, vectors
from mesh.api.intake import is_array_type
from mesh.api.parts import PARTS, Parts, Types

_OBJECT = {"type": "object"}
_HEADERS = {
    "X-Request-ID": "Echoed; made when absent.",
    "X-Deadline-Ms": "Milliseconds that the answer may take, relative.",
    "X-Priority": "critical, normal or batch.",
    "traceparent": "W3C trace context, continued.",
}
_ERRORS = {
    "400": "The body is not JSON.",
    "404": "No such pipeline or role.",
    "413": "The body is too large.",
    "422": "An unknown or missing field, or a wrong type.",
    "503": "No room or nobody serves it; see Retry-After.",
    "504": "The deadline passed.",
}
_QUERY_ANSWER = ("request_id", "generated_response", "sentiment", "is_toxic")
_TRACE = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "total_ms": {"type": "number"},
        "stages": {"type": "array", "items": _OBJECT},
    },
}


# Bodies of doors whose standards fix them.
_BODIES: Mapping[str, Any] = {
    "/v1/chat/completions": openai_form.Chat,
    "/v1/completions": openai_form.Completion,
    "/v1/embeddings": vectors.Embeddings,
    "/v1/rerank": vectors.Rerank,
    "/v2/rerank": vectors.Rerank,
    "/rerank": vectors.Rerank,
}


def openapi(app: web.Application) -> dict[str, Any]:
    """Return the description of every route of `app`."""
    parts = app[PARTS]
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler in listed(app):
        for place, operation in _operations(parts, method, path, handler):
            paths.setdefault(place, {})[method.lower()] = operation
    security = bool(parts.settings.security.api_keys)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"mesh {parts.topology.mesh.name}", "version": "1"},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {"Error": _error_schema(), **_components()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}] if security else [],
    }


def listed(app: web.Application) -> list[tuple[str, str, Any]]:
    """Return method, path and handler of each route, in order; HEAD comes with GET."""
    rows = {
        (route.method, route.resource.canonical): route.handler
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    return [(method, path, handler) for (method, path), handler in sorted(rows.items())]


def schema_of(types: Types) -> dict[str, Any]:
    """Return the JSON schema of an object with these fields."""
    optional = [name for name, kind in types.items() if type(None) in get_args(kind)]
    return {
        "type": "object",
        "properties": {name: _schema(kind) for name, kind in types.items()},
        "required": [name for name in types if name not in optional],
    }


def _operations(
    parts: Parts, method: str, path: str, handler: Any
) -> list[tuple[str, dict[str, Any]]]:
    """Return the operations of one route: one for each pipeline or role, where it has any."""
    text = (handler.__doc__ or "").strip().splitlines()
    summary = text[0] if text else path
    if method == "POST" and path == "/v1/pipelines/{name}":
        return [
            (f"/v1/pipelines/{name}", _work(f"Run the pipeline {name}", _pipeline(parts, name)))
            for name in parts.topology.pipelines
        ]
    if method == "POST" and path == "/v1/roles/{name}":
        return [
            (f"/v1/roles/{name}", _work(f"Call the role {name}", (schema_of(types), _OBJECT)))
            for name, types in parts.role_types.items()
        ]
    if path == "/query":
        given = schema_of({"request_id": str, "query": str})
        got = schema_of(dict.fromkeys(_QUERY_ANSWER, str))
        return [(path, _work(summary, (given, got)))]
    if path in _BODIES:
        return [(path, _work(summary, (_components()[_BODIES[path].__name__], _OBJECT)))]
    names = re.findall(r"{(\w+)}", path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    return [(path, {"summary": summary, "parameters": parameters, "responses": _ok(None)})]


def _pipeline(parts: Parts, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    pipeline = parts.topology.pipelines[name]
    types = parts.input_types.get(name, {})
    given = schema_of({field: types.get(field, Any) for field in pipeline.input})
    given["properties"] |= {
        "stream": {"type": "boolean", "description": "Answer as server-sent events."},
        "request_id": {"type": "string", "maxLength": 128},
    }
    given["additionalProperties"] = False
    got: dict[str, Any] = {field: {} for field in pipeline.output}
    return given, {"type": "object", "properties": {**got, "trace": _TRACE}}


def _work(summary: str, body: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    given, got = body
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    failures = {s: {"description": text, "content": error} for s, text in _ERRORS.items()}
    return {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
            for name, text in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": given}}},
        "responses": {**_ok(got), **failures},
    }


def _ok(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    content = {"content": {"application/json": {"schema": schema}}} if schema else {}
    return {"200": {"description": "The answer.", **content}}


def _components() -> dict[str, Any]:
    """Return the schemas of the standards' bodies, and of what is in them, by name."""
    place = "#/components/schemas/{name}"
    kinds = list(dict.fromkeys(_BODIES.values()))
    return msgspec.json.schema_components(kinds, ref_template=place)[1]


def _error_schema() -> dict[str, Any]:
    names = ("code", "message", "request_id")
    return {"type": "object", "properties": {"error": schema_of(dict.fromkeys(names, str))}}


def _schema(kind: Any) -> dict[str, Any]:
    if is_array_type(kind):
        return {"type": "array", "description": "Numbers, nested by the array's shape."}
    if get_origin(kind) in (Union, UnionType):
        return {"anyOf": [_schema(part) for part in get_args(kind)]}
    try:
        return msgspec.json.schema(kind)
    except TypeError:
        return {}

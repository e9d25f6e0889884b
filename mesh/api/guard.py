"""Stands before every handler: ids, hosts, keys, origins; and after it: errors, metrics, one line.

Shell: the one middleware, and the one place that turns errors into answers; `api.front` asks
the same guard.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mesh.api.answer import error_body, failed
from mesh.api.intake import REQUEST_ID, new_id, request_id
from mesh.api.parts import Parts
from mesh.errors import (
    BadRequest,
    ExpectationFailed,
    Forbidden,
    MeshError,
    MethodNotAllowed,
    Misdirected,
    NotFound,
    RoleError,
    TooLarge,
    Unauthorized,
)
from mesh.observe.logs import Quota

_PROBES = {"/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
FREE = frozenset({*_PROBES, "/", "/console.js", "/console.css"})
"""Open without a key: what an orchestrator asks, and the page in which a person types the key."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
NO_ROUTE = "(unknown)"  # label of what leads nowhere: callers may invent any path
HOSTS_MAX = 256  # verdicts kept; a caller may send any Host
Shape = Callable[[MeshError], dict[str, Any]]
SHAPE: web.RequestKey[Shape] = web.RequestKey("shape")
"""Set by doors whose contract fixes another shape of errors."""
SHAPES: web.AppKey[Mapping[str, Shape | None]] = web.AppKey("shapes")
"""Such shapes by route, for errors that come before the door itself: a wrong key, a method.

The first parts of a path are for what leads nowhere below them; None is the standard shape.
"""
PARTIAL: web.RequestKey[str] = web.RequestKey("partial", str)
"""Set when an answer began well and ended in an error; holds its code."""


class Guard:
    """Who may speak to this node over HTTP, and what is noted of it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._quota = Quota(parts.settings.log.request_lines_s_max)
        self._keys = [key.encode() for key in parts.settings.security.api_keys]
        self._origins = frozenset(parts.settings.security.cors_origins)
        self.has_cors = bool(self._origins)
        self._verdicts: dict[str, bool] = {}

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Raise unless host, origin and key are in order.

        Args:
            method: of HTTP.
            path: without its query.
            headers: looked up as `Host`, `Origin` and `Authorization`.
        """
        host = headers.get("Host", "")
        if not (self._verdicts.get(host) or self._is_ours(host)):
            raise Misdirected(
                f"this node is not {host[:80]!r}; name it in security.hosts if it should be"
            )
        self._check_origin(method, headers.get("Origin"), host)
        if self._keys and path not in FREE and method != "OPTIONS":
            self._check_key(headers.get("Authorization", ""))

    def cors(self, request: web.Request) -> dict[str, str]:
        """Return the headers that let the page of an allowed origin read the answer."""
        origin = request.headers.get("Origin")
        if not self._origins or origin is None or not self._is_allowed(origin):
            return {}
        allowed = "*" if "*" in self._origins else origin
        return {
            "Access-Control-Allow-Origin": allowed,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": (
                "Authorization, Content-Type, X-Request-ID, X-Deadline-Ms, X-Priority, traceparent"
            ),
            "Access-Control-Expose-Headers": "X-Request-ID, Retry-After",
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        }

    def crashed(self, error: Exception, request_id: str, path: str) -> MeshError:
        """Return what the caller is told of an error of ours; the log has all of it."""
        self._parts.log.error("request.crashed", error, id=request_id, path=path)
        return RoleError(f"{type(error).__name__} in this node; its log has the traceback")

    def count(self, route: str, method: str, status: int, code: str, took_s: float) -> None:
        """Count one request; the arguments are those of `note`."""
        metrics = self._parts.metrics
        metrics.observe_http(route, _method(method), status, took_s)
        if code:
            metrics.observe_error(code)

    def note(
        self,
        route: str,
        path: str,
        method: str,
        request_id: str,
        status: int,
        code: str,
        took_s: float,
    ) -> None:
        """Count one request, and write its line if it is worth one.

        Args:
            route: the pattern of its path.
            path: as the line shows it.
            method: of HTTP; callers may invent any.
            request_id: the caller's or ours.
            status: of the answer.
            code: of the error, "" if there was none.
            took_s: from head to answer.
        """  # fmt: skip
        self.count(route, method, status, code, took_s)
        more: dict[str, int] = {}
        if not code:
            if method != "POST":
                return
            if took_s < self._parts.settings.log.slow_s:
                skipped = self._quota.take(time.monotonic())
                if skipped is None:
                    return
                more = {"skipped": skipped} if skipped else more
        self._parts.log.info(
            "request.answered",
            id=request_id,
            route=path,
            status=status,
            ms=round(took_s * 1000.0, 2),
            outcome=code or "ok",
            **more,
        )

    def _is_ours(self, host: str) -> bool:
        verdict = self._verdicts.get(host)
        if verdict is None:
            if len(self._verdicts) >= HOSTS_MAX:
                self._verdicts.clear()
            verdict = self._verdicts[host] = is_own_host(host, self._names())
            if not verdict:
                del self._verdicts[host]  # a member of that name may join
        return verdict

    def _names(self) -> set[str]:
        settings = self._parts.settings
        addresses = [settings.listen.http, settings.advertise.http]
        addresses += [member.facts.http for member in self._parts.members()]
        names = {address.rpartition(":")[0] for address in addresses}
        names |= {member.facts.name for member in self._parts.members()}
        return names | {settings.name, socket.gethostname(), *settings.security.hosts}

    def _check_origin(self, method: str, origin: str | None, host: str) -> None:
        if origin is None or method in ("GET", "HEAD", "OPTIONS"):
            return
        if origin.partition("://")[2] != host and not self._is_allowed(origin):
            raise Forbidden(f"pages of {origin[:80]!r} may not call; see security.cors_origins")

    def _is_allowed(self, origin: str) -> bool:
        return "*" in self._origins or origin in self._origins

    def _check_key(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        given = key.strip().encode() if scheme.lower() == "bearer" else b""
        # Every key is compared, in constant time: the duration tells nothing about any.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if not any(matches):
            raise Unauthorized("this node wants `Authorization: Bearer KEY` with one of its keys")


def is_own_host(host: str, names: Iterable[str]) -> bool:
    """Return whether a Host header may mean this node.

    An address cannot have been rebound by somebody else's DNS; a name must be one
    of ours, or any page could read us through its own name.
    """
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].strip("[]").rstrip(".").lower()
    own = {known.strip("[]").lower() for known in names}
    if "*" in own or name in own or name == "localhost" or name.endswith(".localhost"):
        return bool(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def middleware(parts: Parts, guard: Guard) -> Middleware:
    """Return the one middleware of the application."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        began_s = time.monotonic()
        parts.metrics.http_active += 1
        status, code = 499, "cancelled"
        request[REQUEST_ID] = new_id()  # until the caller's own is found good
        try:
            try:
                response = await _admitted(request, handler, guard)
                code = ""
            except Exception as error:  # noqa: BLE001 - a root: the connection must get an answer
                response, code = _failed(request, error, guard)
            status = response.status
            if response.prepared:
                code = request.get(PARTIAL, code)
            else:
                response.headers["X-Request-ID"] = request[REQUEST_ID]  # the body may have named it
                if parts.admission.is_draining:
                    response.force_close()  # as `api.front` does
                if guard.has_cors:
                    response.headers.update(guard.cors(request))
        except BaseException:
            code = request.get(PARTIAL, code)
            raise
        finally:
            parts.metrics.http_active -= 1
            _note(guard, request, status, code, time.monotonic() - began_s)
        return response

    return guarded


def _admitted(
    request: web.Request, handler: Handler, guard: Guard
) -> Awaitable[web.StreamResponse]:
    """Return the handler's answer to come, once the request may enter; no coroutine of its own."""
    own = request.headers.get("X-Request-ID")
    if own is not None:
        request[REQUEST_ID] = request_id(own)
    guard.check(request.method, request.path, request.headers)
    if request.method == "OPTIONS" and guard.cors(request):
        return _empty()
    return handler(request)


async def _empty() -> web.StreamResponse:
    return web.Response(status=204)


def _failed(request: web.Request, error: Exception, guard: Guard) -> tuple[web.StreamResponse, str]:
    """Return the answer for an error, with the error's code."""
    headers: dict[str, str] = {}
    if isinstance(error, MeshError):
        known = error
    elif isinstance(error, web.HTTPException):
        if error.status < 400:
            raise error
        known, headers = _translated(request, error), dict(error.headers)
    else:
        known = guard.crashed(error, request[REQUEST_ID], request.path)
    return _shaped(request, known, headers), known.code


def _shaped(request: web.Request, error: MeshError, headers: dict[str, str]) -> web.Response:
    shape = request.get(SHAPE) or _shape_of(request)
    body = shape(error) if shape else error_body(error, request[REQUEST_ID])
    response = failed(error, body)
    if "Allow" in headers:
        response.headers["Allow"] = headers["Allow"]
    return response


def _shape_of(request: web.Request) -> Shape | None:
    shapes, pattern = request.app.get(SHAPES, {}), _pattern(request)
    if pattern:
        return shapes.get(pattern)
    parts = request.path.split("/", 3)[:3]
    near = (each for each in ("/".join(parts), "/".join(parts[:2])) if each in shapes)
    return shapes.get(next(near, ""))


def _pattern(request: web.Request) -> str:
    """Return the pattern of the path; that of a route which takes other methods, if any; or ""."""
    resource = request.match_info.route.resource
    if resource is not None:
        return resource.canonical
    for each in request.app.router.resources():
        pattern = each.get_info().get("pattern")
        if pattern is not None and pattern.fullmatch(request.path):
            return each.canonical
    return ""


def _translated(request: web.Request, error: web.HTTPException) -> MeshError:
    """Return aiohttp's error as one of ours."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(f"{request.path} takes {allowed}, not {request.method}")
    if error.status == 404:
        return NotFound(f"no route {request.path[:200]!r}; /docs lists them")
    if error.status == 417:
        return ExpectationFailed("Expect: only 100-continue is understood")
    if error.status == 413:
        return TooLarge(error.text or error.reason)
    return BadRequest(error.text or error.reason)


def _note(guard: Guard, request: web.Request, status: int, code: str, took_s: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else NO_ROUTE
    path = request.path if resource is not None else route
    guard.note(route, path, request.method, request[REQUEST_ID], status, code, took_s)


def _method(method: str) -> str:
    """Return the method as a label; callers may invent any, and labels must stay few."""
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"

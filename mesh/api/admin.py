"""Doors for whoever runs the mesh: change the topology, let a node leave.

Shell. With `security.api_keys` they want a key as every door does; without keys only
the machine itself may use them, or anyone who can reach a port could end a mesh. What a
proxy on this machine passes on is not the machine's own, if the proxy says so: one that
adds no header cannot be told from a person here, so set keys behind it.
"""

from __future__ import annotations

import ipaddress

from aiohttp import web

from mesh.api import answer, intake
from mesh.api.parts import PARTS
from mesh.errors import BadRequest, Forbidden

PASSED_ON = ("forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip")
"""What proxies add to a request of somebody else's, beside all `X-Forwarded-…`."""


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.post("/admin/topology", post_topology),
        web.post("/admin/drain", post_drain),
    ]


async def post_topology(request: web.Request) -> web.Response:
    """Take on a topology text with a higher epoch; gossip brings it to the others."""
    parts = request.app[PARTS]
    _check_may(request)
    raw = await intake.raw_of(request, intake.request_of(request).deadline_s)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"a topology is UTF-8: {error}") from error
    is_new = await parts.takeover.offer(text, "POST /admin/topology")
    return answer.json({"taken": is_new, **parts.takeover.statistics()})


async def post_drain(request: web.Request) -> web.Response:
    """Begin the orderly end of this node: not ready, out of the ring, finish, leave."""
    _check_may(request)
    parts = request.app[PARTS]
    parts.stop()
    return answer.json({"status": "draining", "node": parts.settings.name}, 202)


def _check_may(request: web.Request) -> None:
    if request.app[PARTS].settings.security.api_keys:
        return  # the guard has asked for one
    try:
        is_own = ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        is_own = False
    names = [name.lower() for name in request.headers]
    is_passed_on = any(name in PASSED_ON or name.startswith("x-forwarded-") for name in names)
    if not is_own or is_passed_on:
        raise Forbidden("without security.api_keys only this machine may do that; set keys")

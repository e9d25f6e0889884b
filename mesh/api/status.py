"""How this node is: for orchestrators, load balancers, dashboards and people.

Shell. `/livez` never depends on peers; `/readyz` says whether to send requests.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from mesh.api import answer
from mesh.api.parts import PARTS, Parts
from mesh.gossip.member import Status
from mesh.observe.metrics import CONTENT_TYPE

_LIVE = (Status.ALIVE, Status.SUSPECT)


def routes() -> list[web.RouteDef]:
    """Return the routes of this file."""
    return [
        web.get("/livez", live),
        web.get("/healthz", live),
        web.get("/readyz", ready),
        web.get("/health", health),
        web.get("/stats", stats),
        web.get("/metrics", metrics),
    ]


async def live(_request: web.Request) -> web.Response:
    """Say that the process lives."""
    return answer.json({"status": "alive"})


async def ready(request: web.Request) -> web.Response:
    """Say whether this node may be sent requests, and if not, why."""
    reason = request.app[PARTS].why_not_ready()
    if not reason:
        return answer.json({"status": "ready"})
    response = answer.json({"status": "not ready", "reason": reason}, 503)
    response.headers["Retry-After"] = "1"
    return response


async def health(request: web.Request) -> web.Response:
    """Return what the clients of earlier projects look at before they start."""
    parts = request.app[PARTS]
    roles = parts.statistics()["roles"]
    own = {name: one for name, one in roles.items() if one.get("state")}
    is_healthy = not parts.why_not_ready()
    names = sorted({m.facts.name for m in parts.members() if m.status in _LIVE})
    return answer.json(
        {
            "status": "healthy" if is_healthy else "unhealthy",
            "healthy": is_healthy,
            "node": names.index(parts.settings.name) if parts.settings.name in names else 0,
            "node_id": parts.settings.name,
            "total_nodes": len(names),
            "service": "+".join(sorted(own)) or "door",
            "active_requests": parts.admission.active,
            "total_requests": parts.admission.total,
            "batch_metrics": batch_metrics(own),
            "roles": own,
        }
    )


async def stats(request: web.Request) -> web.Response:
    """Return everything that this node counts."""
    return answer.json(stats_of(request.app[PARTS]))


async def metrics(request: web.Request) -> web.Response:
    """Return Prometheus text."""
    body = request.app[PARTS].metrics.text()
    return web.Response(body=body, headers={**answer.HEADERS, "Content-Type": CONTENT_TYPE})


def stats_of(parts: Parts) -> dict[str, Any]:
    """Return `/stats`."""
    workers = [f"http://{m.facts.http}" for m in parts.members() if m.status in _LIVE]
    return {
        "node": parts.settings.name,
        "total_requests": parts.admission.total,
        "active_requests": parts.admission.active,
        "num_workers": len(workers),
        "workers": workers,
        **parts.statistics(),
    }


def batch_metrics(roles: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the batches of all roles of this node together.

    A batch counts as full when it left at its largest size, and as a timeout when it
    left because its window had passed.
    """
    totals = {
        name: sum(role.get(name, 0) for role in roles.values())
        for name in ("total_batches", "timeout_batches", "full_batches")
    }
    items = sum(r.get("total_batches", 0) * r.get("avg_batch_size", 0.0) for r in roles.values())
    average = round(items / totals["total_batches"], 3) if totals["total_batches"] else 0.0
    return {**totals, "avg_batch_size": average}

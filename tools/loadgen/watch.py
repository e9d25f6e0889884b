"""Looks at every node of the mesh once a second while it is under load.

Shell: reads `/stats`. A server that has no such page is simply not watched; a node that joins
meanwhile is watched from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import aiohttp

EVERY_S = 1.0
ANSWER_S_MAX = 0.8  # a node that is slower is looked at again the next second


class Watch:
    """What was seen of the nodes: a row per node and look."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._headers = headers
        self._urls: dict[str, None] = {}

    @contextlib.asynccontextmanager
    async def watching(self, targets: Sequence[str]) -> AsyncIterator[None]:
        """Look at the nodes that the targets know, until the block ends."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S_MAX)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            begin_s = time.monotonic()
            await self._look(session, targets, 0.0)
            task = asyncio.create_task(self._run(session, targets, begin_s))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await self._look(session, targets, time.monotonic() - begin_s)

    async def _run(
        self, session: aiohttp.ClientSession, targets: Sequence[str], begin_s: float
    ) -> None:
        while self._urls:
            await asyncio.sleep(EVERY_S)
            await self._look(session, targets, time.monotonic() - begin_s)

    async def _look(
        self, session: aiohttp.ClientSession, targets: Sequence[str], at_s: float
    ) -> None:
        for target in targets:  # the first that answers knows them all
            if found := await _members(session, target):
                self._urls |= dict.fromkeys(found)
                break
        pages = (_get(session, f"{url}/stats") for url in self._urls)
        self.rows += [row_of(stats, at_s) for stats in await asyncio.gather(*pages) if stats]

    def summary(self, requests: int) -> dict[str, Any]:
        """Return what the rows say per node, and the rows themselves."""
        nodes: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            nodes.setdefault(row["node"], []).append(row)
        return {
            "nodes": {name: _spent(rows, requests) for name, rows in sorted(nodes.items())},
            "watch": self.rows,
        }


def row_of(stats: dict[str, Any], at_s: float) -> dict[str, Any]:
    """Return what is kept of one `/stats`."""
    process = stats.get("process", {})
    edges = {peer["node"]: peer for peer in stats.get("peers", {}).values() if peer.get("node")}
    return {
        "at_s": round(at_s, 3),
        "node": stats.get("node", ""),
        "rss_bytes": process.get("rss_bytes", 0),
        "cpu_s": process.get("cpu_seconds", 0.0),
        "lag_ms": process.get("loop_lag_ms", {}).get("p99", 0.0),
        "sent_bytes": {name: peer.get("bytes_out", 0) for name, peer in edges.items()},
        "batch_sizes": {
            name: role["batch_sizes"]
            for name, role in stats.get("roles", {}).items()
            if role.get("batch_sizes")
        },
    }


def _spent(rows: Sequence[dict[str, Any]], requests: int) -> dict[str, Any]:
    """Return what one node used between the first and the last look."""
    each = max(1, requests)
    names = dict.fromkeys(name for row in rows for name in row["sent_bytes"])
    roles = dict.fromkeys(role for row in rows for role in row["batch_sizes"])
    return {
        "rss_bytes_max": max(row["rss_bytes"] for row in rows),
        "cpu_ms_per_request": _grown([row["cpu_s"] for row in rows]) * 1000.0 / each,
        "sent_bytes_per_request": {
            name: _grown([row["sent_bytes"].get(name, 0) for row in rows]) / each for name in names
        },
        "batch_sizes": {
            role: _grown_counts([row["batch_sizes"].get(role, {}) for row in rows])
            for role in roles
        },
    }


def _grown(totals: Sequence[float]) -> float:
    """Return how much a running total grew; one that fell began anew, with its process."""
    return sum(b - a if b >= a else b for a, b in pairwise(totals))


def _grown_counts(looks: Sequence[dict[str, int]]) -> dict[str, int]:
    """Return how often each batch size came over all looks."""
    sizes = dict.fromkeys(size for look in looks for size in look)
    grown = {size: int(_grown([look.get(size, 0) for look in looks])) for size in sizes}
    return {size: count for size, count in grown.items() if count}


async def _members(session: aiohttp.ClientSession, target: str) -> list[str]:
    found = await _get(session, f"{target}/v1/members")
    live = [one for one in found.get("members", []) if one.get("status") == "alive"]
    return [f"http://{one['http']}" for one in live if one.get("http")]


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """Return a page's JSON object, or nothing."""
    try:
        async with session.get(url) as answer:
            found = await answer.json() if answer.status == 200 else {}
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

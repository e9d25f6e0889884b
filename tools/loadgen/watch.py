"""Looks at every node of the mesh once a second while it is under load.

Shell: reads `/stats`. A server that has no such page is simply not watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

EVERY_S = 1.0
ANSWER_S_MAX = 0.8  # a node that is slower is looked at again the next second


class Watch:
    """What was seen of the nodes: a row per node and look."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._headers = headers

    @contextlib.asynccontextmanager
    async def watching(self, targets: Sequence[str]) -> AsyncIterator[None]:
        """Look at the nodes that the first target knows, until the block ends."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_S_MAX)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            urls = await _members(session, targets[0])
            begin_s = time.monotonic()
            await self._look(session, urls, 0.0)
            task = asyncio.create_task(self._run(session, urls, begin_s))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await self._look(session, urls, time.monotonic() - begin_s)

    async def _run(
        self, session: aiohttp.ClientSession, urls: Sequence[str], begin_s: float
    ) -> None:
        while urls:
            await asyncio.sleep(EVERY_S)
            await self._look(session, urls, time.monotonic() - begin_s)

    async def _look(self, session: aiohttp.ClientSession, urls: Sequence[str], at_s: float) -> None:
        for stats in await asyncio.gather(*(_get(session, f"{url}/stats") for url in urls)):
            if stats:
                self.rows.append(row_of(stats, at_s))

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
    first, last = rows[0], rows[-1]
    each = max(1, requests)
    return {
        "rss_bytes_max": max(row["rss_bytes"] for row in rows),
        "cpu_ms_per_request": (last["cpu_s"] - first["cpu_s"]) * 1000.0 / each,
        "sent_bytes_per_request": {
            name: (total - first["sent_bytes"].get(name, 0)) / each
            for name, total in last["sent_bytes"].items()
        },
        "batch_sizes": {
            role: _grown(sizes, first["batch_sizes"].get(role, {}))
            for role, sizes in last["batch_sizes"].items()
        },
    }


def _grown(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Return how often each batch size came in between."""
    grown = {size: count - before.get(size, 0) for size, count in after.items()}
    return {size: count for size, count in grown.items() if count > 0}


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

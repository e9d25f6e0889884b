"""Finds in a node's figures how often each of its limits was reached.

Pure. Every part counts what it refused, dropped or gave up where it does so; here these
counts get one name each, for `/stats` and for one metric. docs/limits-and-faults.md says
what each name means; errors that a caller saw are counted by their code beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

Figures = Mapping[str, Any]
Reached = tuple[str, str]  # the limit's name, and the role whose it is or ""

# Gossip counts much that is no limit; these are.
_GOSSIP = ("members_refused", "relays_refused", "syncs_refused", "syncs_failed", "foreign")
_EVENTS = ("probes_failed", "suspicions", "refutations", "deaths", "stalls", "name_conflicts")


def reached(figures: Figures) -> dict[Reached, int]:
    """Return how often each limit was reached since the start; those that never were are absent."""
    counts: Counter[Reached] = Counter()
    for name, count in _of_node(figures):
        counts[name, ""] += count
    for role, own in figures.get("roles", {}).items():
        for name, count in _of_role(own):
            counts[f"role.{name}", role] += count
    return {key: count for key, count in sorted(counts.items()) if count}


def gossip_events(figures: Figures) -> dict[str, int]:
    """Return how often this node doubted others, found them dead, or was doubted itself."""
    gossip = figures.get("gossip", {})
    return {name: gossip.get(name, 0) for name in _EVENTS}


def _of_node(figures: Figures) -> Iterator[tuple[str, int]]:
    routes = figures.get("routes", {})
    yield "door.requests", figures.get("door", {}).get("refused_requests", 0)
    yield "door.connections", figures.get("door", {}).get("refused_connections", 0)
    yield "route.budget", routes.get("budget_refused", 0)
    yield "route.shadows", routes.get("shadows", {}).get("skipped", 0)
    yield "once.kept", figures.get("once", {}).get("evictions", 0)
    gossip = figures.get("gossip", {})
    for name in _GOSSIP:
        yield f"gossip.{name}", gossip.get(name, 0)
    for name, count in gossip.get("dropped", {}).items():
        yield f"gossip.{name}", count
    for code, count in figures.get("endings", {}).items():
        yield f"peer.{code}", count


def _of_role(own: Figures) -> Iterator[tuple[str, int]]:
    yield from own.get("dropped", {}).items()
    yield "load", own.get("load_failures", 0)
    yield "cache", own.get("cache", {}).get("evictions", 0)
    yield "lane", own.get("process", {}).get("restarts", 0)
    engine = own.get("engine", {})
    yield "kv", engine.get("preemptions", 0)
    for reason, count in engine.get("ended", {}).items():
        if reason in ("too_large", "overloaded", "deadline"):
            yield reason, count

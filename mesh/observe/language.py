"""Finds in a node's figures what its language models did, for `/metrics`.

Pure. A role's engine counts (`llm.engine`); here these counts get names and labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Figures = Mapping[str, Mapping[str, Any]]  # by role
Sample = tuple[tuple[str, str], float]

_TOKENS = {"read": "prompt_tokens", "known": "prefix_tokens", "said": "answer_tokens"}
_PREFIXES = {"hit": "prefix_hits", "copy": "prefix_copies", "eviction": "prefix_evictions"}
_ANSWERS = {"running": "running", "waiting": "waiting"}


def tokens(roles: Figures) -> Iterator[Sample]:
    """Yield how many tokens each role's engine read, knew from before, and said."""
    yield from _samples(roles, _TOKENS)


def prefixes(roles: Figures) -> Iterator[Sample]:
    """Yield how often a known beginning was found, was copied, and had to make room."""
    yield from _samples(roles, _PREFIXES)


def answers(roles: Figures) -> Iterator[Sample]:
    """Yield how many answers run and wait."""
    yield from _samples(roles, _ANSWERS)


def memory(roles: Figures) -> Iterator[Sample]:
    """Yield which share of the blocks of keys and values is held, kept warm, and neither."""
    for role, engine in _engines(roles):
        most = max(1, engine.get("kv_blocks", 0))
        held, warm = engine.get("kv_blocks_used", 0) / most, engine.get("kv_blocks_warm", 0) / most
        yield (role, "held"), round(held, 4)
        yield (role, "warm"), round(warm, 4)
        yield (role, "free"), round(1 - held - warm, 4)


def _samples(roles: Figures, names: Mapping[str, str]) -> Iterator[Sample]:
    for role, engine in _engines(roles):
        yield from (((role, label), engine.get(name, 0)) for label, name in names.items())


def _engines(roles: Figures) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for role, own in roles.items():
        if engine := own.get("engine"):
            yield role, engine

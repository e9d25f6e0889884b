"""Reads TOML, and refuses as a mistake in it what Python's parser stumbles over.

Pure. A topology comes from other nodes and admin doors too: nothing in a text may end a node.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import Any

DEPTH_MAX = 32  # tables in tables; a topology has five, what walks it goes down by recursion


def read(text: str) -> dict[str, Any]:
    """Return the tree of a TOML text.

    Raises:
        tomllib.TOMLDecodeError: for all that is wrong with it.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # a number of more digits than Python turns into one
        raise tomllib.TOMLDecodeError(str(error)) from error
    except RecursionError:
        raise tomllib.TOMLDecodeError(_TOO_DEEP) from None
    level: Iterable[Any] = [tree]
    for _ in range(DEPTH_MAX):
        level = [value for each in level for value in _inside(each)]
        if not level:
            return tree
    raise tomllib.TOMLDecodeError(_TOO_DEEP)


_TOO_DEEP = f"more than {DEPTH_MAX} tables or lists in each other"


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

"""Finds out before a measurement whether its results can be written.

Shell. A run of minutes must not end with figures that have nowhere to go.
"""

from __future__ import annotations

from pathlib import Path


def check(path: Path) -> None:
    """Return if `path` can be written; it is left as it was.

    Raises:
        OSError: it cannot.
    """
    was_there = path.exists()
    with path.open("ab"):
        pass
    if not was_there:
        path.unlink()

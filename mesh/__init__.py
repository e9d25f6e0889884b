"""A small mesh that answers, generates and trains over a few ordinary machines."""

from __future__ import annotations

from typing import Any

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Import the client when it is first asked for: `import mesh` stays light."""
    if name == "Client":
        from mesh.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

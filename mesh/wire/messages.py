"""What nodes say to each other, as values.

Pure. `wire.connection` turns these into frames and back. New fields go to the
end and have defaults, types never change, unknown fields are skipped: nodes of
two versions can share a mesh.
"""

from __future__ import annotations

from typing import Any

import msgspec

# One value of a request or answer: None, bool, int, float, str, bytes, lists and string-keyed
# dicts of those, or a NumPy array. Arrays stand at the top level only, so that they can travel
# raw behind the header.
Fields = dict[str, Any]


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask a peer to do something.

    `to` names the service: `role/NAME`, or a service of the mesh itself such as
    `mesh/sync`. `deadline_ms` is the time left, never a clock reading: clocks of
    two machines differ. With `wants_pieces` the answer may come in pieces.
    """

    to: str
    fields: Fields = {}
    deadline_ms: int = 30_000
    request_id: str = ""
    priority: int = 1
    attempt: int = 0
    traceparent: str = ""
    wants_pieces: bool = False


class Timing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the time of one call went at the node that served it, in milliseconds."""

    queued_ms: float = 0.0
    ran_ms: float = 0.0
    batch_size: int = 1
    cached: bool = False


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole answer to a call; `load` is the server's estimate of work waiting, in seconds."""

    fields: Fields
    timing: Timing = Timing()
    load: float = 0.0


class Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of an answer, sent before it."""

    fields: Fields


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call ended in an error of `mesh.errors`, named by its `code`."""

    code: str
    message: str
    node: str = ""
    retry_after_s: float | None = None

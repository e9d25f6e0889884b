"""What nodes say to each other, as values.

Pure. `wire.connection` turns these into frames and back. New fields go to the
end and have defaults, types never change, unknown fields are skipped: nodes of
two versions can share a mesh.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mesh import errors

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
    param: str = ""


class Finish(msgspec.Struct, frozen=True, omit_defaults=True):
    """The caller sends no more pieces; the answer is still to come."""


class Cancel(msgspec.Struct, frozen=True, omit_defaults=True):
    """The caller no longer wants the answer."""


class Credit(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reader took pieces: that many more bytes of them may be sent on this stream."""

    amount: int


class Ping(msgspec.Struct, frozen=True, omit_defaults=True):
    """Are you there? `id` comes back unchanged."""

    id: int


class Pong(msgspec.Struct, frozen=True, omit_defaults=True):
    """I am; with the server's wall clock in seconds, for an estimate of its offset."""

    id: int
    received_at: float
    replied_at: float


class Goodbye(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sender opens nothing more on this connection and is about to close it."""

    code: str = ""
    message: str = ""


def failure_from(error: errors.MeshError, node: str) -> Failure:
    """Return `error` as it travels; `node` is named unless the error names one itself."""
    return Failure(
        code=error.code,
        message=error.message,
        node=error.node or node,
        retry_after_s=error.retry_after_s,
        param=error.param,
    )


def error_from(failure: Failure) -> errors.MeshError:
    """Return the error that a `Failure` names."""
    return errors.from_code(
        failure.code,
        failure.message,
        node=failure.node,
        retry_after_s=failure.retry_after_s,
        param=failure.param,
    )

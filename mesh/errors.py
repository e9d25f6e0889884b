"""Every error that the mesh raises on purpose, as one tree.

Pure. Programmer errors are `assert`s; everything here is an operating error: it
is handled, or passed on until a door turns it into an answer.

    MeshError
    ├── RequestError           the caller's side; never retried
    │   ├── BadRequest         400  unreadable: broken JSON, or where a contract says 400
    │   ├── Unprocessable      422  readable, but an unknown field or a wrong type
    │   ├── Unauthorized       401
    │   ├── Forbidden          403  a page of another site sent this
    │   ├── NotFound           404  no such route, pipeline, role, model, job
    │   ├── MethodNotAllowed   405
    │   ├── ExpectationFailed  417  an Expect header that asks for anything but 100-continue
    │   ├── Misdirected        421  the Host header names nothing that this node is
    │   ├── TooLarge           413  a body, a frame, a prompt beyond its limit
    │   ├── RateLimited        429  the caller's quota; says when to come back
    │   ├── Cancelled          499  the client went away
    │   └── DeadlineExceeded   504
    ├── CapacityError          503  another node may have room
    │   ├── Overloaded              a queue is full, or the deadline cannot be met
    │   ├── NoOwner                 no live node serves this role
    │   ├── BreakerOpen             the breaker of that node is open
    │   ├── AttemptsSpent           the retry budget is empty
    │   └── Draining                this node is about to leave
    ├── PeerError              502  another node, or the way to it; retried elsewhere
    │   ├── Unreachable             no connection could be made
    │   ├── ConnectionLost          a connection ended with calls in flight
    │   ├── PeerTimeout             a connected peer stayed silent
    │   ├── RemoteProtocolError     the peer broke the protocol
    │   └── LocalProtocolError 500  we did: our bug, never retried
    ├── RoleError              500  a role's own code failed on this item; never retried
    └── SetupError                  before serving; the process ends with exit code 78
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import ClassVar

EXIT_SETUP = 78  # EX_CONFIG of sysexits.h: "something was found unconfigured or misconfigured"


class Retry(Enum):
    """What may be done with a request that met an error."""

    NEVER = "never"
    ELSEWHERE = "elsewhere"
    LATER = "later"


class MeshError(Exception):
    """Base of the tree; `code` is stable text, `status` is HTTP's."""

    code: ClassVar[str] = "mesh_error"
    status: ClassVar[int] = 500
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(
        self,
        message: str = "",
        *,
        node: str = "",
        role: str = "",
        request_id: str = "",
        retry_after_s: float | None = None,
        param: str = "",
    ) -> None:
        super().__init__(message or self.code)
        self.message = message or self.code
        self.node = node
        self.role = role
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.param = param  # the field of the body that is wrong, where it is one


class RequestError(MeshError):
    """The caller's side; never retried."""

    code, status = "request_error", 400


class BadRequest(RequestError):
    """The body could not be read."""

    code, status = "bad_request", 400


class Unprocessable(RequestError):
    """The body was read, but a field is unknown or of the wrong type."""

    code, status = "unprocessable", 422


class Unauthorized(RequestError):
    """A key is missing or wrong."""

    code, status = "unauthorized", 401


class NotFound(RequestError):
    """No such route, pipeline, role, model or job."""

    code, status = "not_found", 404


class Forbidden(RequestError):
    """The caller may not do this, whatever key it has."""

    code, status = "forbidden", 403


class MethodNotAllowed(RequestError):
    """The route exists, with other methods."""

    code, status = "method_not_allowed", 405


class ExpectationFailed(RequestError):
    """The Expect header asks for something that this node does not do."""

    code, status = "expectation_failed", 417


class Misdirected(RequestError):
    """The Host header names nothing that this node is."""

    code, status = "misdirected", 421


class TooLarge(RequestError):
    """A body, frame or prompt is beyond its limit."""

    code, status = "too_large", 413


class RateLimited(RequestError):
    """The caller's quota is spent; `retry_after_s` says when to come back."""

    code, status, retry = "rate_limited", 429, Retry.LATER


class Cancelled(RequestError):
    """The client went away before the answer."""

    code, status = "cancelled", 499


class DeadlineExceeded(RequestError):
    """The time that the caller gave has passed."""

    code, status = "deadline_exceeded", 504


class CapacityError(MeshError):
    """No room here; another node may have some."""

    code, status, retry = "no_capacity", 503, Retry.ELSEWHERE


class Overloaded(CapacityError):
    """A queue is full, or the deadline cannot be met."""

    code = "overloaded"


class NoOwner(CapacityError):
    """No live node serves this role."""

    code = "no_owner"


class BreakerOpen(CapacityError):
    """The breaker of the chosen node is open."""

    code = "breaker_open"


class AttemptsSpent(CapacityError):
    """The retry budget is empty."""

    code = "attempts_spent"


class Draining(CapacityError):
    """This node is about to leave and takes nothing new."""

    code = "draining"


class PeerError(MeshError):
    """Another node, or the way to it, failed."""

    code, status, retry = "peer_error", 502, Retry.ELSEWHERE


class Unreachable(PeerError):
    """No connection could be made."""

    code = "unreachable"


class ConnectionLost(PeerError):
    """A connection ended with calls in flight."""

    code = "connection_lost"


class PeerTimeout(PeerError):
    """A connected peer stayed silent."""

    code = "peer_timeout"


class RemoteProtocolError(PeerError):
    """The peer broke the protocol."""

    code = "remote_protocol_error"


class LocalProtocolError(PeerError):
    """We broke the protocol ourselves: a bug here, never retried."""

    code, status, retry = "local_protocol_error", 500, Retry.NEVER


class RoleError(MeshError):
    """A role's own code failed on this item."""

    code, status = "role_error", 500


class SetupError(MeshError):
    """The process cannot start; `problems` holds one line each."""

    code = "setup_error"

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _tree(root: type[MeshError]) -> Iterator[type[MeshError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


BY_CODE: dict[str, type[MeshError]] = {error.code: error for error in _tree(MeshError)}


def from_code(code: str, message: str, **where: object) -> MeshError:
    """Return the error that a peer named; an unknown code becomes a `RoleError`.

    Newer peers may know errors that we do not: their message is kept, and the
    request is not retried, because we cannot know whether it may be.
    """
    kind = BY_CODE.get(code, RoleError)
    if kind is SetupError:
        return RoleError(message)
    return kind(message, **where)  # type: ignore[arg-type]

"""A request as it goes from process to process: a `Call` with the time that is left.

Shell only in that callers read the clock; used by whoever answers or makes calls.
"""

from __future__ import annotations

from mesh.policy.deadline import left_ms
from mesh.policy.request import Priority, Request
from mesh.wire.messages import Call, Fields


def request_of(call: Call, now_s: float) -> Request:
    """Return the request of a call that has just arrived."""
    return Request(
        id=call.request_id,
        deadline_s=now_s + call.deadline_ms / 1000.0,
        priority=Priority(min(max(call.priority, Priority.CRITICAL), Priority.BATCH)),
        traceparent=call.traceparent,
        attempt=call.attempt,
    )


def call_of(
    to: str, fields: Fields, request: Request, now_s: float, *, wants_pieces: bool = False
) -> Call:
    """Return the call that carries a request on.

    Raises:
        DeadlineExceeded: no time is left.
    """
    return Call(
        to=to,
        fields=fields,
        deadline_ms=left_ms(request.deadline_s, now_s),
        request_id=request.id,
        priority=int(request.priority),
        attempt=request.attempt,
        traceparent=request.traceparent,
        wants_pieces=wants_pieces,
    )

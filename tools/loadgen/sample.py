"""What is kept of each request, and into which class a failure falls.

Pure. Times are seconds since the run began, on one monotonic clock for all processes of
this machine.
"""

from __future__ import annotations

from msgspec import Struct

# Every failure has exactly one class; the word goes into the results unchanged.
FAILURES = {
    "connect_refused": "nobody listens there",
    "connect_timeout": "no connection in time",
    "dns": "the host name has no address",
    "reset": "the connection broke before the answer was complete",
    "truncated": "a stream ended without its last event",
    "timeout": "no complete answer within --timeout",
    "http_429": "refused: the caller's quota",
    "http_4xx": "refused: the request",
    "http_503": "refused: no room, or draining",
    "http_504": "the server's deadline passed",
    "http_5xx": "the server failed",
    "stream_error": "a stream ended in an error event",
    "line_error": "a line was answered with an error",
    "bad_payload": "an answer that cannot be read",
    "wrong_answer": "an answer that is not what was asked for",
    "client_dropped": "not sent: --in-flight-max was reached here",
}


class StageTime(Struct, frozen=True, array_like=True):
    """One stage of one answer, as its trace tells."""

    name: str
    node: str
    queued_ms: float = 0.0
    ran_ms: float = 0.0
    network_ms: float = 0.0
    batch_size: int = 1
    cached: bool = False


class Sample(Struct, frozen=True, array_like=True):
    """One request. `failure` is empty when the answer was complete and right."""

    kind: str
    intended_s: float
    sent_s: float
    end_s: float
    failure: str = ""
    node: str = ""  # who answered, where the answer names one node
    stages: tuple[StageTime, ...] = ()
    first_s: float = 0.0  # streams: when the first piece of text came; 0: none
    gaps_s: tuple[float, ...] = ()  # streams: between pieces
    tokens: int = 0  # as the server counted them, else pieces
    sent_bytes: int = 0
    seen_bytes: int = 0
    note: str = ""  # the first words of an error, for the person who reads

    @property
    def latency_s(self) -> float:
        """From the intended start: what a user who came at that moment has waited."""
        return self.end_s - self.intended_s

    @property
    def lag_s(self) -> float:
        """How late this program sent it."""
        return self.sent_s - self.intended_s


def class_of_status(status: int) -> str:
    """Return the failure class of an HTTP status, or "" for success."""
    if status < 400:
        return ""
    if status in (429, 503, 504):
        return f"http_{status}"
    return "http_4xx" if status < 500 else "http_5xx"

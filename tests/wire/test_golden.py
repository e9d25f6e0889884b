"""The bytes of every message of version 1 never change: old and new nodes share a mesh.

`python -m tests.wire.test_golden` appends messages that are new to the file; a line
that is there is never rewritten.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mesh.wire import events
from mesh.wire.messages import Answer, Call, Failure, Piece, Timing
from tests.support.connection_pair import ConnectionPair, connection, drain, opened

GOLDEN = Path(__file__).parent / "golden" / "version1.txt"

FULL = Call(
    to="role/embed",
    fields={"text": "hé", "n": [1, -2, 0.5, None, True], "b": b"\x00\xff", "d": {"k": "v"}},
    deadline_ms=1234,
    request_id="r-1",
    priority=2,
    attempt=1,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    wants_pieces=True,
)
TENSOR = Call(to="a", fields={"x": np.arange(6, dtype="<f4").reshape(2, 3), "y": np.array([True])})


def hello() -> bytes:
    return drain(connection(is_client=True))


def proof() -> bytes:
    pair = ConnectionPair(
        connection(is_client=True, secret="s"), connection(is_client=False, secret="s")
    )
    pair.server.receive_data(drain(pair.client))
    pair.client.receive_data(drain(pair.server))
    return drain(pair.client)


def refusal() -> bytes:
    server = connection(is_client=False, mesh="other")
    server.receive_data(hello())
    return drain(server)


def from_client(*steps: str) -> bytes:
    """Return what a client sends for `steps` on its first stream."""
    pair = opened()
    for step in steps:
        drain(pair.client)
        _CLIENT[step](pair.client)
    return drain(pair.client)


_CLIENT = {
    "call": lambda side: side.send_call(Call(to="a", wants_pieces=True)),
    "full call": lambda side: side.send_call(FULL),
    "call with arrays": lambda side: side.send_call(TENSOR),
    "piece": lambda side: side.send_piece(1, Piece({"x": 1})),
    "finish": lambda side: side.finish(1),
    "cancel": lambda side: side.cancel(1),
    "credit": lambda side: side.take(1, 1 << 20),
    "ping": lambda side: side.send_ping(7),
    "pong": lambda side: side.send_pong(7, 1.5, 2.5),
    "goodbye": lambda side: side.send_goodbye("draining", "n0 is leaving"),
}


def from_server(reply: Answer | Failure) -> bytes:
    pair = opened()
    stream = pair.client.send_call(Call(to="a"))
    pair.pump()
    if isinstance(reply, Answer):
        pair.server.send_answer(stream, reply, 2.5)
    else:
        pair.server.send_failure(stream, reply)
    return drain(pair.server)


MESSAGES = {
    "hello": hello,
    "proof": proof,
    "refusal": refusal,
    "call": lambda: from_client("call"),
    "full call": lambda: from_client("full call"),
    "call with arrays": lambda: from_client("call with arrays"),
    "piece": lambda: from_client("call", "piece"),
    "finish": lambda: from_client("call", "finish"),
    "cancel": lambda: from_client("call", "cancel"),
    "credit": lambda: from_client("call", "credit"),
    "ping": lambda: from_client("ping"),
    "pong": lambda: from_client("pong"),
    "goodbye": lambda: from_client("goodbye"),
    "answer": lambda: from_server(Answer({"x": 1})),
    "full answer": lambda: from_server(
        Answer({"x": [1]}, Timing(queued_ms=1, ran_ms=2, batch_size=3, cached=True), load=0.5)
    ),
    "failure": lambda: from_server(Failure("overloaded", "full", "n1", 0.5)),
}


def golden() -> dict[str, bytes]:
    lines = GOLDEN.read_text().splitlines() if GOLDEN.exists() else []
    return {name: bytes.fromhex(data) for name, _, data in (line.partition(": ") for line in lines)}


@pytest.mark.parametrize("name", MESSAGES)
def test_each_message_has_its_golden_bytes(name: str) -> None:
    assert golden()[name] == MESSAGES[name]()


def test_golden_calls_can_still_be_read() -> None:
    """What an old node sends is understood, also where a later version writes other bytes."""
    found = []
    for name in ("call", "full call", "call with arrays"):
        found += opened().server.receive_data(golden()[name])
    assert [Call(to="a", wants_pieces=True), FULL] == [event.call for event in found[:2]]
    np.testing.assert_array_equal(TENSOR.fields["x"], found[2].call.fields["x"])


def test_golden_answers_can_still_be_read() -> None:
    pair = opened()
    pair.client.send_call(Call(to="a"))
    [event] = pair.client.receive_data(golden()["full answer"])
    assert isinstance(event, events.AnswerReceived)
    assert Timing(queued_ms=1, ran_ms=2, batch_size=3, cached=True) == event.answer.timing


def main() -> None:
    """Append what is new."""
    known = golden()
    GOLDEN.parent.mkdir(exist_ok=True)
    with GOLDEN.open("a") as file:
        file.writelines(
            f"{name}: {make().hex()}\n" for name, make in MESSAGES.items() if name not in known
        )


if __name__ == "__main__":
    main()

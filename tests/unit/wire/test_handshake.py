"""Only nodes of the same mesh, version and secret get in, and the others learn why."""

from __future__ import annotations

import msgspec
import pytest

from mesh.errors import RemoteProtocolError
from mesh.wire import events
from mesh.wire.connection import State
from mesh.wire.frames import PREAMBLE, PREFIX, WHOLE, Kind
from mesh.wire.handshake import Handshake, Hello, Proof
from tests.support.connection_pair import ConnectionPair, connection, drain


def hello(**fields: object) -> Hello:
    return Hello(**{"mesh": "demo", "node": "x", "nonce": bytes(16), **fields})


def greeting(theirs: Hello) -> bytes:
    body = msgspec.msgpack.encode(theirs)
    return PREAMBLE + PREFIX.pack(len(body), 0, len(body), Kind.HELLO, WHOLE, 0) + body


@pytest.mark.parametrize("secret", ["", "s3cret"])
def test_nodes_of_one_mesh_open(secret: str) -> None:
    pair = ConnectionPair(
        connection(is_client=True, secret=secret), connection(is_client=False, secret=secret)
    )
    to_client, to_server = pair.pump()
    assert ["server"] == [event.peer.node for event in to_client]
    assert ["client"] == [event.peer.node for event in to_server]
    assert State.OPEN is pair.client.state is pair.server.state


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ({"mesh": "other"}, "expected mesh 'demo', found 'other'"),
        ({"secret": "a"}, "expected no mesh secret, found one: give every node the same"),
    ],
)
def test_strangers_are_told_why(theirs: dict[str, str], reason: str) -> None:
    pair = ConnectionPair(client=connection(is_client=True, **theirs))
    to_client, to_server = pair.pump()
    assert events.Refused(reason) == to_server[0]
    assert isinstance(to_client[0], events.Refused)
    assert State.CLOSED is pair.client.state is pair.server.state


def test_a_wrong_secret_is_refused_and_told() -> None:
    pair = ConnectionPair(
        connection(is_client=True, secret="a"), connection(is_client=False, secret="b")
    )
    to_client, to_server = pair.pump()
    assert [events.Refused("wrong mesh secret: give every node the same")] == to_server
    assert ["unauthorized"] == [event.goodbye.code for event in to_client]
    assert pair.server.state is State.CLOSED


def test_a_server_shows_its_proof_to_nobody_who_has_not_proven() -> None:
    server = connection(is_client=False, secret="s")
    server.receive_data(greeting(hello(has_secret=True)))
    data = drain(server)[len(PREAMBLE) :]
    length, _, _, kind, _, _ = PREFIX.unpack_from(data)
    assert (Kind.HELLO, PREFIX.size + length) == (kind, len(data))


def test_a_proof_cannot_be_sent_back() -> None:
    client = Handshake(True, hello(node="c", nonce=b"c" * 16), "s")
    server = Handshake(False, hello(node="s", nonce=b"s" * 16), "s")
    client.receive(server.hello, server.sent)
    server.receive(client.hello, client.sent)
    assert client.is_proven(server.proof())
    assert server.is_proven(client.proof())
    assert not client.is_proven(client.proof())
    assert not server.is_proven(Proof(b""))


def test_a_proof_holds_for_one_pair_of_nonces_only() -> None:
    proofs = set()
    for nonce in (b"1" * 16, b"2" * 16):
        client = Handshake(True, hello(nonce=nonce), "s")
        client.receive(hello(nonce=b"3" * 16), msgspec.msgpack.encode(hello(nonce=b"3" * 16)))
        proofs.add(client.proof().digest)
    assert 2 == len(proofs)


@pytest.mark.parametrize(
    "theirs",
    [
        hello(version=2),
        hello(nonce=b"short"),
        hello(node=""),
        hello(node="n" * 300),
        hello(message_bytes_max=10),
        hello(window_bytes=0),
        hello(window_bytes=-5),
    ],
    ids=str,
)
def test_greetings_that_cannot_be_kept_are_refused(theirs: Hello) -> None:
    server = connection(is_client=False)
    [event] = server.receive_data(greeting(theirs))
    assert isinstance(event, events.Refused)
    assert event.reason.startswith("expected ")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        PREAMBLE[:-1] + b"\x02",
        PREAMBLE + PREFIX.pack(1 << 20, 0, 1 << 20, Kind.HELLO, WHOLE, 0),
        PREAMBLE + PREFIX.pack(0, 0, 0, Kind.CALL, WHOLE, 0),
        PREAMBLE + PREFIX.pack(0, 0, 0, Kind.PROOF, WHOLE, 0),
        greeting(hello()) + greeting(hello())[len(PREAMBLE) :],
    ],
    ids=str,
)
def test_what_is_no_greeting_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        connection(is_client=False, secret="").receive_data(data)

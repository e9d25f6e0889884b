"""Who may speak on a connection: the same mesh, a version we know, the same secret.

Pure. Without a secret each side sends a `Hello`. With one, both must prove that
they hold it, the client first, so that a stranger who connects gets nothing to
try passwords on:

    client                          server
    Hello(nonce)          ->
                          <-        Hello(nonce)
    Proof                 ->
                          <-        Proof

A proof is an HMAC over both greetings as they travelled, hence over both nonces,
names and limits, with the prover's part in front, so that it cannot be sent back.
It guards the door, not what follows: traffic is neither sealed nor signed.
"""

from __future__ import annotations

import hmac

import msgspec

VERSION = 1
NONCE_BYTES = 16
NAME_CHARS_MAX = 255
HELLO_BYTES_MAX = 4096  # before the handshake is over nothing longer is read
MESSAGE_BYTES_MIN = 1 << 10  # a peer that takes less than this cannot be spoken to


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """A greeting: who speaks, and what the speaker takes."""

    version: int = VERSION
    mesh: str
    node: str
    nonce: bytes
    has_secret: bool = False
    message_bytes_max: int = 64 << 20
    window_bytes: int = 1 << 20


class Proof(msgspec.Struct, frozen=True):
    """The speaker holds the mesh's secret."""

    digest: bytes


class Handshake:
    """The greetings of one connection, as one side sees them.

    Args:
        is_client: whether this side connected.
        hello: this side's greeting.
        secret: what both sides must hold, or "".
    """

    def __init__(self, is_client: bool, hello: Hello, secret: str) -> None:
        self.hello = hello
        self.peer: Hello | None = None
        self.sent = msgspec.msgpack.encode(hello)
        self._received = b""
        self._is_client = is_client
        self._secret = secret

    def receive(self, hello: Hello, body: bytes) -> str:
        """Take the peer's greeting; return why the two cannot speak, or ""."""
        self._received = body
        self.peer = hello
        return objection(self.hello, hello)

    def proof(self) -> Proof:
        """Return our proof."""
        return self._prove(self._is_client)

    def is_proven(self, proof: Proof) -> bool:
        """Return whether the peer's proof is right, in time that does not depend on it."""
        return hmac.compare_digest(proof.digest, self._prove(not self._is_client).digest)

    def _prove(self, of_client: bool) -> Proof:
        client, server = self.sent, self._received
        if not self._is_client:
            client, server = server, client
        part = b"mesh client" if of_client else b"mesh server"
        told = len(client).to_bytes(4, "little") + client + server
        return Proof(hmac.digest(self._secret.encode(), part + told, "sha256"))


def objection(mine: Hello, theirs: Hello) -> str:
    """Return why the two cannot speak, or "" when they can."""
    if theirs.version != mine.version:
        return f"expected protocol version {mine.version}, found {theirs.version}"
    if theirs.mesh != mine.mesh:
        return f"expected mesh {mine.mesh!r}, found {theirs.mesh[:NAME_CHARS_MAX]!r}"
    if theirs.has_secret != mine.has_secret:
        wants, has = ("a", "none") if mine.has_secret else ("no", "one")
        return f"expected {wants} mesh secret, found {has}: give every node the same"
    if len(theirs.nonce) != NONCE_BYTES or not 0 < len(theirs.node) <= NAME_CHARS_MAX:
        return f"expected a nonce of {NONCE_BYTES} bytes and a node name, found neither or one"
    if theirs.message_bytes_max < MESSAGE_BYTES_MIN or theirs.window_bytes < 1:
        return "expected limits that let a message pass, found smaller ones"
    return ""

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


def prove(secret: str, is_client: bool, client_hello: bytes, server_hello: bytes) -> Proof:
    """Return the proof of one side, over both greetings as they travelled."""
    part = b"mesh client" if is_client else b"mesh server"
    told = len(client_hello).to_bytes(4, "little") + client_hello + server_hello
    return Proof(hmac.digest(secret.encode(), part + told, "sha256"))


def is_proven(proof: Proof, expected: Proof) -> bool:
    """Return whether two proofs are the same, in time that does not depend on them."""
    return hmac.compare_digest(proof.digest, expected.digest)


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

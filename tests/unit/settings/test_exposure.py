"""A node says who else may use it, and is quiet where that is nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.settings.exposure import exposed
from mesh.settings.schema import Listen, Node, Security

LONG = "sixteen letters."


@pytest.mark.parametrize(
    ("http", "peer", "security", "words"),
    [
        ("127.0.0.1:1", "[::1]:2", Security(), []),
        ("localhost:1", "127.1.2.3:2", Security(), []),
        ("0.0.0.0:1", "127.0.0.1:2", Security(), ["security.api_keys"]),
        ("[::]:1", "n1.lan:2", Security(), ["security.api_keys", "security.secret"]),
        ("10.0.0.1:1", "10.0.0.1:2", Security(secret=LONG, api_keys=("k",)), []),
        ("127.0.0.1:1", "127.0.0.1:2", Security(secret="short"), ["can be guessed"]),
    ],
)
def test_who_else_may_use_a_node(http, peer, security, words):
    listen = Listen(http=http, peer=peer)
    node = Node(name="n", topology=Path("t"), listen=listen, security=security)
    said = list(exposed(node))
    assert len(words) == len(said)
    assert all(word in line for word, line in zip(words, said, strict=True))

"""Says which conversation a question to a language model belongs to: what its calls are routed by.

Pure. The turns of one conversation begin alike, and who has computed a beginning need not read
it again (`llm.prefix`). So a call goes to the ring's owner of its beginning, the same from every
door, and `ring.bounded` sends it on where that one has too much to do:

    messages        everything up to the first message of the user: it stays as turns are added
    prompt, text    the first `CHARS` characters, or `TOKENS` tokens

What is shorter, or a question with documents, has no beginning worth going anywhere for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHARS, TOKENS = 256, 64  # a block of keys and values, about: less is never used again
CHARS_MAX = 4096  # of a conversation's beginning: enough to tell two apart


def key_of(fields: Mapping[str, Any]) -> bytes | None:
    """Return what is the same in every turn, or None where nothing is gained."""
    messages = fields.get("messages")
    if isinstance(messages, (list, tuple)) and messages:
        return _encoded(_beginning(messages)[:CHARS_MAX])
    prompt = fields.get("prompt")
    if prompt is None:
        prompt = fields.get("text")
    if isinstance(prompt, str) and len(prompt) >= CHARS:
        return _encoded(prompt[:CHARS])
    if isinstance(prompt, (list, tuple)) and len(prompt) >= TOKENS:
        return repr(list(prompt[:TOKENS])).encode()
    return None


def _beginning(messages: Sequence[Any]) -> str:
    """Return the messages up to the user's first; what is none of them is the role's to refuse."""
    told = []
    for message in messages:
        if not isinstance(message, Mapping):
            break
        told += [str(message.get("role")), str(message.get("content"))]
        if message.get("role") == "user":
            break
    return "\0".join(told)


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")  # JSON can bring halves of characters

"""Cuts texts into passages that an encoder can read whole, words names into plain words.

Pure. Used by `tools.corpus`; what it decides, decides how well questions find things.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CHARS_MAX = 900  # of a passage: about 220 tokens of English; MiniLM reads 256
PASSAGES_MAX = 24  # of one document; the rest of a longer one is left out, and said so

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, slots=True)
class Passage:
    """One row of the documents, before it has an id.

    Attributes:
        title: shown, and kept on every passage of a document.
        content: shown, searched and embedded.
        category: what it belongs to, e.g. a module or a folder.
        words: searched and embedded, not shown: the title in plain words, other names.
        summary: embedded once more by itself, because a question resembles one sentence
            more than a page; "" for none.
        weight: factor of its similarity, at most 1: below 1 for what is rarely meant.
    """

    title: str
    content: str
    category: str = ""
    words: str = ""
    summary: str = ""
    weight: float = 1.0


def embedded_text(title: str, words: str, content: str) -> str:
    """Return what an encoder reads of a passage."""
    return f"{words or title}: {content}"


def reranked_text(title: str, content: str) -> str:
    """Return what a reranker reads of a passage."""
    return f"{title}\n{content}" if title else content


def plain_words(name: str) -> str:
    """Return a dotted, camel-case or underscored name as words.

    >>> plain_words("csv.DictReader")
    'csv Dict Reader'
    >>> plain_words("os.path.get_size")
    'os path get size'
    """
    return " ".join(_CAMEL.sub(" ", name).replace(".", " ").replace("_", " ").split())


def cut(text: str, chars_max: int = CHARS_MAX, passages_max: int = PASSAGES_MAX) -> list[str]:
    """Return the text in passages of at most `chars_max` characters.

    Paragraphs stay whole where they fit, then sentences, then words; what has no
    break at all is cut anywhere. Nothing but white space at the cuts is lost, up to
    `passages_max`.
    """
    passages: list[str] = []
    current = ""
    for part in _parts(text.strip(), chars_max):
        joined = f"{current}{part}"
        if len(joined.strip()) <= chars_max:
            current = joined
            continue
        passages.append(current.strip())
        current = part
    passages.append(current.strip())
    return [passage for passage in passages if passage][:passages_max]


def _parts(text: str, chars_max: int) -> list[str]:
    """Return pieces that each fit, with the white space that follows them."""
    for pattern in (r".*?(?:\n\s*\n|\Z)", r".*?(?:(?<=[.!?])\s+|\Z)", r"\s*\S+\s*"):
        pieces = [piece for piece in re.findall(pattern, text, re.DOTALL) if piece]
        if len(pieces) > 1 and all(len(piece.strip()) <= chars_max for piece in pieces):
            return pieces
        if len(pieces) > 1:
            return [part for piece in pieces for part in _fitting(piece, chars_max)]
    return [text[at : at + chars_max] for at in range(0, len(text), chars_max)]


def _fitting(piece: str, chars_max: int) -> list[str]:
    return [piece] if len(piece.strip()) <= chars_max else _parts(piece, chars_max)

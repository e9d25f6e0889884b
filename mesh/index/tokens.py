"""Keeps the token vectors of every passage, so that a reranker need not compute them anew.

Shell: one file beside the index, `tokens.safetensors`, read where it is wanted. It is not
mapped: the system keeps what is read often anyway, and the process stays small.

    vectors   int8 [T, C]    all passages' tokens, one after the other
    ends      int64 [N]      where the tokens of document 1, 2 ... N end

A token's vector has length one. What is kept is its direction, each row in steps of its
own: the length of the row tells how many steps are one. In the demo's index (309,783 tokens,
119 MB) all forty questions keep the order that 32-bit floats give.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mesh.errors import SetupError
from mesh.index.passages import reranked_text
from mesh.index.search import BUILD

TOKENS = "tokens.safetensors"
FORMAT = "1"
CHARS_MAX = 300  # of a passage that are read: how it begins says what it is
KEPT_MAX = 100_000  # passages, about 2 GB of 384 bytes a token; more are computed when asked for
STEPS = 127  # of the largest component of a row, either side of zero
HEAD_BYTES = 8  # of a file: the length of the JSON that follows

Read = Callable[[list[str]], Sequence[np.ndarray]]
"""From texts to the vectors of their tokens, float32 [T, C] each."""


class TokenVectors:
    """The token vectors of an index; safe to read from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            SetupError: it is not one of ours.
        """
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY)
            length = int.from_bytes(os.pread(self._file, HEAD_BYTES, 0), "little")
            head = json.loads(os.pread(self._file, length, HEAD_BYTES))
            facts, vectors, ends = head["__metadata__"], head["vectors"], head["ends"]
            self.version, self.model = str(facts["version"]), str(facts["model"])
            self.chars_max, self.width = int(facts["chars_max"]), int(vectors["shape"][1])
            self._start = HEAD_BYTES + length + vectors["data_offsets"][0]
            first, last = ends["data_offsets"]
            raw = os.pread(self._file, last - first, HEAD_BYTES + length + first)
            self._ends = [0, *np.frombuffer(raw, "<i8").tolist()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise SetupError(f"cannot read {path}: {error}; build it with  {BUILD}") from error

    def fetch(self, ids: Sequence[int]) -> list[np.ndarray | None]:
        """Return the vectors of each document's tokens, int8 [T, C]; None where it has none."""
        return [self._one(id_) if 0 < id_ < len(self._ends) else None for id_ in ids]

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _one(self, id_: int) -> np.ndarray:
        first, last = self._ends[id_ - 1], self._ends[id_]
        count = (last - first) * self.width
        raw = os.pread(self._file, count, self._start + first * self.width)
        assert len(raw) == count, "the file of token vectors is cut off"
        return np.frombuffer(raw, np.int8).reshape(-1, self.width)


def narrowed(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [T, C] as int8, each row in steps of its own largest component."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    return np.rint(vectors * (STEPS / np.where(largest > 0.0, largest, 1.0))).astype(np.int8)


def save_part(path: Path, rows: Iterable[tuple[str, str]], read: Read) -> None:
    """Write the token vectors of some documents, given as (title, content)."""
    texts = [reranked_text(title, content)[:CHARS_MAX] for title, content in rows]
    each = [narrowed(vectors) for vectors in read(texts)]
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        lengths = np.array([len(one) for one in each], np.int64)
        np.savez(file, vectors=np.concatenate(each), lengths=lengths)
    temporary.rename(path)


def join_parts(path: Path, parts: Sequence[Path], **facts: str) -> None:
    """Write the file from its parts, with what it is of: `version` and `model`."""
    lengths = np.concatenate([_of_part(part, "lengths") for part in parts])
    width = _of_part(parts[0], "vectors").shape[1]
    ends = np.cumsum(lengths).astype("<i8")
    size = int(ends[-1]) * width
    head: dict[str, Any] = {
        "__metadata__": {**facts, "format": FORMAT, "chars_max": str(CHARS_MAX)},
        "ends": {"dtype": "I64", "shape": [len(ends)], "data_offsets": [0, ends.nbytes]},
        "vectors": {
            "dtype": "I8",
            "shape": [int(ends[-1]), width],
            "data_offsets": [ends.nbytes, ends.nbytes + size],
        },
    }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % HEAD_BYTES)  # so that what follows is aligned
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        file.write(len(text).to_bytes(HEAD_BYTES, "little") + text + ends.tobytes())
        for part in parts:
            file.write(_of_part(part, "vectors").tobytes())
    temporary.rename(path)


def is_of(path: Path, version: str) -> bool:
    """Return whether the file is there and belongs to an index of this version."""
    if not path.exists():
        return False
    try:
        found = TokenVectors(path)
    except SetupError:
        return False
    found.close()
    return found.version == version and found.chars_max == CHARS_MAX


def _of_part(path: Path, name: str) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays[name]

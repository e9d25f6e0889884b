"""Reads the head of a GGUF file: key-value pairs, and where each tensor lies.

Arithmetic; used by `models.checkpoint`. The `gguf` package has a reader too, but keeps
several arrays per token of the vocabulary: 2.7 s and 400 MB for SmolLM2, a third of a
node's start. What quantisation types are and how large, and how to undo the rarer ones, is
still the package's word.

Source: the GGUF specification of ggml, version 3 (version 2 differs in nothing read here).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mesh.errors import SetupError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
COUNT_MAX = 10_000_000  # of anything; a larger one is a broken file, not a large model
DIMENSIONS_MAX = 4  # ggml's own limit

# Value types 0..12 in order; 8 is a string, 9 an array.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9

# What values that make no sense lead to, on the way through the head.
_BROKEN = (struct.error, ValueError, LookupError, ArithmeticError, TypeError)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies, in numbers of `shape` (rows last in ggml, first here)."""

    shape: tuple[int, ...]
    kind: str
    offset: int
    row_bytes: int

    @property
    def size_bytes(self) -> int:
        """Of the whole tensor."""
        return self.row_bytes * prod(self.shape[:-1])


class GgufFile:
    """An opened file: its pairs, and its tensors by name, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Read the head.

        Raises:
            SetupError: it is no GGUF file of a known version, or its end is missing.
        """
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.metadata, self.places = _read(_Cursor(self._map))
        except _BROKEN as error:
            raise SetupError(f"{path}: not a GGUF file that can be read: {error}") from error
        for name, place in self.places.items():
            if place.offset + place.size_bytes > len(self._map):
                raise SetupError(f"{path}: ends before tensor {name!r}: incomplete?")

    def read(self, name: str) -> np.ndarray:
        """Return the tensor's bytes, `[rows…, bytes of a row]`, without a copy."""
        place = self.places[name]
        raw = np.frombuffer(self._map, np.uint8, place.size_bytes, place.offset)
        return raw.reshape(*place.shape[:-1], place.row_bytes)


class _Cursor:
    """Reads values one after another."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def take(self, form: str) -> Any:
        layout = struct.Struct("<" + form)
        (value,) = layout.unpack_from(self._data, self.at)
        self.at += layout.size
        return value

    def count(self) -> int:
        found: int = self.take("Q")
        if found > COUNT_MAX:
            raise ValueError(f"a count of {found} at byte {self.at}")
        return found

    def text(self) -> str:
        size = self.count()
        start, self.at = self.at, self.at + size
        return self._data[start : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.take(_SCALARS[kind])
        inner, size = self.take("I"), self.count()
        if inner in _SCALARS:
            layout = struct.Struct(f"<{size}{_SCALARS[inner]}")
            values = list(layout.unpack_from(self._data, self.at))
            self.at += layout.size
            return values
        one: Callable[[], Any] = self.text if inner == _STRING else lambda: self.value(inner)
        return [one() for _ in range(size)]


def _read(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, Place]]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if cursor.take("4s") != MAGIC:
        raise ValueError("it does not begin with GGUF")
    if (version := cursor.take("I")) not in VERSIONS:
        raise ValueError(f"version {version}; expected one of {VERSIONS}")
    tensors, pairs = cursor.count(), cursor.count()
    metadata = {}
    for _ in range(pairs):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.take("I"))
    found: dict[str, Place] = {}
    for _ in range(tensors):
        name = cursor.text()
        if (dimensions := cursor.take("I")) > DIMENSIONS_MAX:
            raise ValueError(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed([cursor.count() for _ in range(dimensions)]))
        kind = GGMLQuantizationType(cursor.take("I"))
        block, block_bytes = GGML_QUANT_SIZES[kind]
        row_bytes = shape[-1] // block * block_bytes
        found[name] = Place(shape, kind.name, cursor.take("Q"), row_bytes)
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    return metadata, {
        name: Place(place.shape, place.kind, start + place.offset, place.row_bytes)
        for name, place in found.items()
    }

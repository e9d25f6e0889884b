"""What the nodes of a chaos run serve: one role that answers whole, one that streams.

Every run of an item is noted in a file, so that work done twice is seen even when a
node died before it could tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mesh.roles.base import Piece, Role, StreamRole, Whole

NOTES = "runs.txt"  # in a node's data folder; one id a line
SLOW = "slow_ms"  # a file there: what it says is added to every batch


class Work(Role):
    """Says an item's id back after a moment of work."""

    takes: ClassVar[Mapping[str, Any]] = {"id": str}
    gives: ClassVar[tuple[str, ...]] = ("id", "by")
    options: ClassVar[Mapping[str, Any]] = {"work_ms": 10.0, "tag": ""}

    def load(self):
        """Open the notes."""
        self._notes = _open(self.context.data)

    def run(self, batch):
        """Work on all items at once."""
        for item in batch:
            _note(self._notes, item["id"])
        time.sleep((self.context.options["work_ms"] + self._slow_ms()) / 1000.0)
        return [{"id": item["id"], "by": self.context.options["tag"]} for item in batch]

    def _slow_ms(self) -> float:
        try:
            return float((self.context.data / SLOW).read_text())
        except (OSError, ValueError):
            return 0.0

    def close(self):
        """Close the notes."""
        os.close(self._notes)


class Crunch(Role):
    """Computes as models do: mostly in a library that lets other threads run, some in Python."""

    takes: ClassVar[Mapping[str, Any]] = {"id": str}
    gives: ClassVar[tuple[str, ...]] = ("by",)
    options: ClassVar[Mapping[str, Any]] = {"size": 384, "turns": 20_000}

    def load(self):
        """Make a matrix."""
        size = self.context.options["size"]
        self._matrix = np.full((size, size), 1.0 / size, np.float32)

    def run(self, batch):
        """Multiply for each item, and count in between."""
        answers = []
        for item in batch:
            product = self._matrix @ self._matrix @ self._matrix
            turns = sum(range(self.context.options["turns"]))
            answers.append({"by": f"{item['id']} {float(product[0, 0]):.3f} {turns}"})
        return answers


class Tell(StreamRole):
    """Counts from 0, a number a piece; goes on where another node stopped."""

    takes: ClassVar[Mapping[str, Any]] = {"id": str, "count": int, "resume": list | None}
    gives: ClassVar[tuple[str, ...]] = ("told", "pieces")
    options: ClassVar[Mapping[str, Any]] = {"piece_ms": 50.0}
    resumable = True

    def load(self):
        """Open the notes."""
        self._notes = _open(self.context.data)

    async def stream(self, item, request):
        """Tell a number, wait, and go on."""
        _note(self._notes, item["id"])
        for number in range(len(item["resume"] or ()), item["count"]):
            await asyncio.sleep(self.context.options["piece_ms"] / 1000.0)
            yield Piece({"told": f"{number} "})
        told = "".join(f"{number} " for number in range(item["count"]))
        yield Whole({"told": told, "pieces": item["count"]})

    def close(self):
        """Close the notes."""
        os.close(self._notes)


def _open(folder) -> int:
    return os.open(folder / NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _note(notes: int, id: str) -> None:
    with contextlib.suppress(OSError):  # a full disk is one of the faults
        os.write(notes, f"{id}\n".encode())

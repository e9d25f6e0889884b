"""What is computed together: the parts of a step of a language model.

Pure. Made by `llm.scheduler`, computed by `llm.runner` or sent round by `llm.relay`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.llm.prefix import Copy


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a prompt: positions `start…` of a slot; `is_last` asks for a token.

    With `copy`, positions before it are brought from another slot first.
    """

    id: int
    slot: int
    start: int
    tokens: tuple[int, ...]
    is_last: bool
    copy: Copy | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One position of a sequence; `is_last` asks for a token, others are said again.

    A draft (`llm.lookup`) stands behind the last token known: perhaps it comes next. It asks
    too, and what it is told counts if it was right.
    """

    id: int
    slot: int
    position: int
    token: int
    is_last: bool = True
    is_draft: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A token is wanted: behind what a sequence has said, and then `ahead`, its drafts."""

    id: int
    ahead: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What is computed together. Rows ascend by slot, then position."""

    chunk: Chunk | None
    rows: tuple[Row, ...]

    def ids(self) -> set[int]:
        """Return who takes part."""
        members = {row.id for row in self.rows}
        return members | {self.chunk.id} if self.chunk else members

    def asking(self) -> list[int]:
        """Return who asks for a token: the chunk's sequence, then the rows'."""
        return [query.id for query in self.queries() if not query.ahead]

    def queries(self) -> list[Query]:
        """Return what is asked, in the order of the outputs: the chunk's, then the rows'."""
        found = [Query(self.chunk.id)] if self.chunk and self.chunk.is_last else []
        ahead: tuple[int, ...] = ()
        for row in self.rows:
            if row.is_last:
                ahead = (*ahead, row.token) if row.is_draft else ()
                found.append(Query(row.id, ahead))
        return found

"""Keeps documents in SQLite, finds them by id or by words.

Shell: one read-only file. Used by the roles retrieve and rerank, on their lanes.

    documents(doc_id INTEGER PRIMARY KEY, title, content, category, words, summary, weight)
    documents_fts(title, content, words)    FTS5 over the same rows

A file made elsewhere may lack what follows `category` and the FTS5 table: then only ids
find documents.

Connections belong to threads (SQLite's own rule); each thread gets its own.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SetupError

COLUMN_WEIGHTS = (2.0, 1.0, 2.0)  # of a word in title, content, words, for BM25
WORDS_MAX = 32  # of a query; more cost time and say little
FETCH_MAX = 500  # ids in one statement; SQLite allows 999 parameters in its oldest builds
CACHE_PAGES = -4096  # SQLite's own page cache per connection, in KiB when negative

SCHEMA = """
CREATE TABLE documents (
    doc_id INTEGER PRIMARY KEY, title TEXT, content TEXT, category TEXT,
    words TEXT, summary TEXT, weight REAL
);
CREATE VIRTUAL TABLE documents_fts USING fts5(
    title, content, words,
    content='documents', content_rowid='doc_id', tokenize='porter unicode61'
);
"""
FILL_WORDS = "INSERT INTO documents_fts(documents_fts) VALUES ('rebuild')"

# Words that nearly every question has and no answer turns on.
_STOP_WORDS = (
    "a about all am an and any are as at be been before but by can could did do does doing "
    "for from get give had has have having how i if in into is it its just like make many "
    "may me more most much must my need no not of on one only or other our over please "
    "should so some something such than that the their them then there these they thing "
    "this those to too use used using very want was way we were what when where which while "
    "who why will with without would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Document:
    """One row."""

    id: int
    title: str
    content: str
    category: str


class Store:
    """Reads one `documents.db`; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connections = threading.local()
        self._opened: list[sqlite3.Connection] = []
        try:
            names = {name for (name,) in self._query("SELECT name FROM sqlite_master", ())}
            if "documents" not in names:
                raise SetupError(f"{path}: expected a table documents, found {sorted(names)}")
            ((self.count,),) = self._query("SELECT count(*) FROM documents", ())
        except sqlite3.Error as error:
            raise SetupError(f"cannot read the documents {path}: {error}") from error
        self.has_words = "documents_fts" in names

    def fetch(self, ids: Sequence[int]) -> list[Document | None]:
        """Return the documents of these ids, in order; None where there is none."""
        found: dict[int, Document] = {}
        unique = list(dict.fromkeys(ids))
        for start in range(0, len(unique), FETCH_MAX):
            part = unique[start : start + FETCH_MAX]
            marks = ",".join("?" * len(part))
            rows = self._query(
                f"SELECT doc_id, title, content, category FROM documents WHERE doc_id IN ({marks})",
                part,
            )
            found |= {row[0]: Document(row[0], *(value or "" for value in row[1:])) for row in rows}
        return [found.get(id_) for id_ in ids]

    def search(self, text: str, k: int) -> list[tuple[int, float]]:
        """Return (id, score) of the best matches by BM25, higher is better.

        Any text is allowed; one without words, or a file without a word index, finds nothing.
        """
        words = query_words(text)
        if not words or not self.has_words:
            return []
        rows = self._query(
            "SELECT rowid, bm25(documents_fts, ?, ?, ?) AS score FROM documents_fts "
            "WHERE documents_fts MATCH ? ORDER BY score, rowid LIMIT ?",
            (*COLUMN_WEIGHTS, match_expression(words), k),
        )
        return [(id_, -score) for id_, score in rows]

    def close(self) -> None:
        """Close the connections of all threads; call it when none is searching."""
        for connection in self._opened:
            connection.close()

    def _query(self, statement: str, values: Iterable[object]) -> list[tuple]:
        connection = getattr(self._connections, "value", None)
        if connection is None:
            connection = self._connections.value = _connect(self.path)
            self._opened.append(connection)
        return connection.execute(statement, tuple(values)).fetchall()


def query_words(text: str) -> list[str]:
    """Return the words of a question that are worth searching, in order, each once.

    Stop words go unless nothing else is left.
    """
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(text)))
    telling = [word for word in words if word not in STOP_WORDS]
    return (telling or words)[:WORDS_MAX]


def match_expression(words: Iterable[str]) -> str:
    """Return an FTS5 expression that finds any of the words.

    Each stands in quotes, so that none can be an operator; a word holds no quote.
    """
    return " OR ".join(f'"{word}"' for word in words)


def _connect(path: Path) -> sqlite3.Connection:
    # Closed by the role's close(), on another thread than the one that opened it.
    connection = sqlite3.connect(
        f"file:{path.resolve()}?mode=ro", uri=True, check_same_thread=False
    )
    connection.execute(f"PRAGMA cache_size = {CACHE_PAGES}")
    return connection

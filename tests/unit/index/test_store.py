"""Documents are found by id and by words, whatever a person types."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import SetupError
from mesh.index.build import write_documents
from mesh.index.passages import Passage
from mesh.index.store import WORDS_MAX, Store, query_words

PASSAGES = [
    Passage("csv.DictReader", "Reads rows.", "csv", "csv Dict Reader"),
    Passage("shutil.rmtree", "Recursively delete a directory tree.", "shutil"),
    Passage("os.rmdir", "Remove a directory.", "os"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "documents.db"
    write_documents(path, PASSAGES)
    opened = Store(path)
    yield opened
    opened.close()


def test_fetch_keeps_the_order_and_marks_what_is_missing(store):
    found = store.fetch([3, 99, 1, 3])
    assert [each and each.title for each in found] == [
        "os.rmdir",
        None,
        "csv.DictReader",
        "os.rmdir",
    ]
    assert store.fetch([]) == []
    assert len(store.fetch(list(range(2000)))) == 2000


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("how do I delete a directory tree", 2),
        ("reader", 1),
        ("removing directories", 3),
        ('"; DROP TABLE documents; --', None),
        ("title:", None),
    ],
)
def test_words_find_what_holds_them(store, text, first):
    found = store.search(text, 5)
    assert (found[0][0] if found else None) == first


@given(st.text(max_size=80))
def test_no_text_breaks_the_search(store, text):
    """Whatever is typed, the answer is a list of known ids, best first."""
    found = store.search(text, 2)
    assert len(found) <= 2
    assert {id_ for id_, _ in found} <= {1, 2, 3}
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)


def test_stop_words_go_unless_nothing_else_is_left():
    assert query_words("How do I parse a date?") == ["parse", "date"]
    assert query_words("to be or not to be") == ["to", "be", "or", "not"]
    assert len(query_words(" ".join(f"w{n}" for n in range(100)))) == WORDS_MAX


def test_each_thread_searches_on_a_connection_of_its_own(store):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(store.search("directory", 5)[0][0]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


def test_a_file_made_elsewhere_needs_no_word_index(tmp_path):
    path = tmp_path / "documents.db"
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE documents (doc_id INTEGER PRIMARY KEY, title, content, category)"
        )
        database.execute("INSERT INTO documents VALUES (7, 'T', 'text', NULL)")
    database.close()
    store = Store(path)
    assert store.fetch([7])[0].content == "text"
    assert store.search("text", 3) == []
    store.close()


@pytest.mark.parametrize("content", [b"", b"this is no database at all, not even nearly one" * 9])
def test_what_is_no_document_file_is_refused(tmp_path, content):
    path = tmp_path / "documents.db"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"documents\.db"):
        Store(path)

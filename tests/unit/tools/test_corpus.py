"""Documents of every source become passages, the same ones each time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from mesh.errors import EXIT_SETUP
from mesh.index.folder import open_index
from tests.support.encoders import tiny_encoder
from tools import corpus
from tools.stdlib_docs import Entry, collect, summary_of


@pytest.fixture(scope="module")
def entries():
    return {entry.name: entry for entry in collect()}


@pytest.mark.slow
def test_the_library_is_covered_under_its_best_names(entries):
    assert len(entries) > 3400
    names = ["open", "str.strip", "os.path.join", "datetime.datetime.strptime", "array.array"]
    names += ["csv.DictReader", "asyncio.TaskGroup", "argparse.ArgumentParser.add_argument"]
    assert [name for name in names if name not in entries] == []
    assert "posixpath.join" not in entries
    assert "random.Random.shuffle" in entries["random.shuffle"].aliases
    assert all(entry.doc.strip() for entry in entries.values())


@pytest.mark.slow
def test_the_documents_do_not_depend_on_the_process(entries):
    script = (
        "import hashlib; from tools.corpus import stdlib_passages; "
        "print(hashlib.sha256(repr(list(stdlib_passages())).encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ("Sort the list. Then return.", "Sort the list."),
        ("f(x) -> y\n\nTurn x into y.\nMore.", "Turn x into y."),
        ("f(x) -> y", "f(x) -> y"),
        ("First\nline.\n\nSecond.", "First line."),
    ],
)
def test_a_summary_is_the_first_sentence(doc, expected):
    assert summary_of(Entry("m.f", "function", doc)) == expected


def test_a_folder_gives_its_texts_by_path(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("# B\n\ntext")
    (tmp_path / "deep" / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "image.png").write_bytes(b"\x89")
    (tmp_path / "empty.md").write_text("")
    found = list(corpus.folder_passages(tmp_path))
    assert [(each.title, each.category) for each in found] == [
        ("b.md", "."),
        ("deep/a.txt", "deep"),
    ]


def test_documents_and_a_folder_are_indexed_from_the_command_line(tmp_path, capsys):
    model = f"path:{tiny_encoder(tmp_path / 'model')}"
    path = tmp_path / "documents.db"
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE documents (doc_id INTEGER PRIMARY KEY, title, content, category)"
        )
        database.execute(
            "INSERT INTO documents VALUES (1, 'T', 'some text', 'c'), (2, 'U', NULL, 'c')"
        )
    database.close()
    command = ["documents", str(path), "--out", str(tmp_path / "out"), "--model", model]
    command += ["--threads", "1"]
    assert corpus.main(command) == 0
    assert "built" in capsys.readouterr().out
    assert corpus.main(command) == 0
    said = capsys.readouterr()
    assert (said.out.count("\n"), said.err) == (1, "")
    assert "up to date" in said.out
    assert {"model", "documents.db", "out"} == {each.name for each in tmp_path.iterdir()}
    index = open_index(tmp_path / "out")
    assert (index.meta.count, index.meta.corpus) == (1, "documents documents.db")
    index.store.close()


def test_what_is_not_there_ends_with_the_setup_code(tmp_path, capsys):
    assert corpus.main(["folder", str(tmp_path / "none")]) == EXIT_SETUP
    path = tmp_path / "broken.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 30)
    assert corpus.main(["documents", str(path), "--out", str(tmp_path / "o")]) == EXIT_SETUP
    assert "broken.db" in capsys.readouterr().err

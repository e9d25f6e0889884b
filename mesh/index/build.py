"""Builds an index folder from passages, such that it can be interrupted at any moment.

Shell: files, SQLite, faiss. Used by `tools.corpus`.

What is done stays in `FOLDER.building`: the documents, then vectors in shards, then token
vectors in shards. The next run goes on behind the last whole shard if passages and model are
the same, and starts anew if not. The finished folder takes the old one's place by renaming.
An index that lacks only its token vectors keeps all else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import faiss
import msgspec
import numpy as np

from mesh.errors import SetupError
from mesh.index import search, store, tokens
from mesh.index.passages import Passage, embedded_text

FORMAT = "2"  # of an index folder; part of its version, so that a change builds it again
SHARD_ROWS = 512  # embedded between two saves: some seconds of work to lose at most
TRAINING_SHARDS_MAX = 600  # 300,000 vectors, enough for 4096 lists

Encode = Callable[[list[str]], np.ndarray]
Row = tuple[str, str, str, str, float]
"""Title, words, content, summary, weight."""
Progress = Callable[[str, int, int], None]
"""Told (step, done, of how many)."""


class Plan(msgspec.Struct, frozen=True):
    """What the folder in the making is of."""

    version: str
    count: int


def version_of(passages: Iterable[Passage], model: str) -> Plan:
    """Return the digest of the passages, the model and the format, and how many they are."""
    digest = hashlib.sha256(f"{FORMAT}\0{model}".encode())
    count = 0
    for passage in passages:
        parts = (passage.title, passage.content, passage.category, passage.words)
        more = (passage.summary, str(passage.weight))
        digest.update("\0".join(parts + more).encode() + b"\1")
        count += 1
    return Plan(digest.hexdigest()[:16], count)


def is_current(folder: Path, version: str) -> bool:
    """Return whether the folder holds an index of this version."""
    try:
        return search.read_meta(folder).version == version
    except SetupError:
        return False


def build_index(
    folder: Path,
    passages: Callable[[], Iterable[Passage]],
    encode: Callable[[], Encode],
    *,
    read: Callable[[], tokens.Read] | None = None,
    model: str,
    corpus: str,
    command: str,
    nlist: int = 0,
    progress: Progress,
) -> bool:
    """Build the index unless it is there; return whether there was anything to do.

    Args:
        folder: where it will be.
        passages: gives them all, the same each time it is called.
        encode: gives the function from texts to vectors; called only when there is work.
        read: gives the function from texts to token vectors, if these are to be kept.
        model: source of the encoder, kept in `meta.json`.
        corpus: what the documents are, in a few words.
        command: that builds it again.
        nlist: lists of an IVF index; 0 chooses, also between flat and IVF.
        progress: told how far it is.

    Raises:
        SetupError: there are no passages.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock")):
        _recover(folder)
        plan = version_of(passages(), model)
        if not plan.count:
            raise SetupError(f"no documents for the index {folder}: the source is empty")
        has_vectors = is_current(folder, plan.version)
        if plan.count > tokens.KEPT_MAX or tokens.is_of(folder / tokens.TOKENS, plan.version):
            read = None
        if has_vectors and read is None:
            return False
        work = folder.with_name(folder.name + ".building")
        _stage(work, plan, passages, progress)
        facts = {"model": model, "corpus": corpus, "command": command}
        if has_vectors:
            for name in (search.VECTORS, search.META):
                shutil.copyfile(folder / name, work / name)
        else:
            _build_vectors(work, plan, encode, nlist, facts, progress)
        if read is not None:
            parts = _sharded(work, "tokens", plan.count, read, _save_tokens, progress)
            tokens.join_parts(work / tokens.TOKENS, parts, version=plan.version, model=model)
        for rest in (*work.glob("vectors-*"), *work.glob("tokens-*"), work / "plan.json"):
            rest.unlink()
        _replace(folder, work)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which is gone after the last who waits for it."""
    lock = _taken(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: nobody else can hold the file of this name
        lock.close()


def _taken(path: Path) -> TextIO:
    while True:
        lock = path.open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it if we die
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # its holder removed it while we waited: the name is another file's, or free


def _recover(folder: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _replace(folder: Path, work: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _stage(
    work: Path, plan: Plan, passages: Callable[[], Iterable[Passage]], progress: Progress
) -> None:
    """Write the documents unless a run before this one has."""
    path = work / "plan.json"
    try:
        if msgspec.json.decode(path.read_bytes(), type=Plan) == plan:
            return
    except (OSError, msgspec.DecodeError):
        pass  # nothing there, or broken off while it was written: both mean to begin
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    progress("documents", 0, plan.count)
    write_documents(work / search.DOCUMENTS, passages())
    progress("documents", plan.count, plan.count)
    _write(path, msgspec.json.encode(plan))


def write_documents(path: Path, passages: Iterable[Passage]) -> None:
    """Write a new documents file with its word index; ids count from 1."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(store.SCHEMA)
        database.executemany(
            "INSERT INTO documents (title, content, category, words, summary, weight) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            ((p.title, p.content, p.category, p.words, p.summary, p.weight) for p in passages),
        )
        database.execute(store.FILL_WORDS)
        database.commit()


def _build_vectors(
    work: Path,
    plan: Plan,
    encode: Callable[[], Encode],
    nlist: int,
    facts: dict[str, str],
    progress: Progress,
) -> None:
    """Write the vectors and what they are of."""
    shards = _sharded(work, "vectors", plan.count, encode, _save_vectors, progress)
    progress("index", 0, 1)
    meta = msgspec.structs.replace(_index(work, shards, plan, nlist), **facts)
    (work / search.META).write_bytes(msgspec.json.format(msgspec.json.encode(meta)))
    progress("index", 1, 1)


def _sharded(
    work: Path,
    name: str,
    count: int,
    model: Callable[[], Any],
    save: Callable[[Path, list[Row], Any], None],
    progress: Progress,
) -> list[Path]:
    """Compute what no whole shard holds yet; return the shards in order."""
    starts = range(0, count, SHARD_ROWS)
    shards = [work / f"{name}-{start // SHARD_ROWS:06d}.npy" for start in starts]
    missing = [
        (start, path) for start, path in zip(starts, shards, strict=True) if not path.exists()
    ]
    done = count - sum(min(SHARD_ROWS, count - start) for start, _ in missing)
    progress(name, done, count)
    if not missing:
        return shards
    run = model()
    with closing(sqlite3.connect(work / search.DOCUMENTS)) as database:
        for start, path in missing:
            rows = database.execute(
                "SELECT title, words, content, summary, weight FROM documents "
                "WHERE doc_id > ? ORDER BY doc_id LIMIT ?",
                (start, SHARD_ROWS),
            ).fetchall()
            save(path, rows, run)
            done += len(rows)
            progress(name, done, count)
    return shards


def _save_vectors(path: Path, rows: list[Row], run: Encode) -> None:
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.save(file, _vectors(rows, run))
    temporary.rename(path)


def _save_tokens(path: Path, rows: list[Row], run: tokens.Read) -> None:
    tokens.save_part(path, [(title, content) for title, _, content, _, _ in rows], run)


def _vectors(rows: list[Row], run: Encode) -> np.ndarray:
    """Return the vectors of rows.

    Where there is a summary, the direction is between those of the whole passage and of
    the summary. The length is the weight, so that a search by inner product applies it.
    """
    texts = [embedded_text(title, words, content) for title, words, content, _, _ in rows]
    brief = {
        at: embedded_text(title, words, summary)
        for at, (title, words, _, summary, _) in enumerate(rows)
        if summary
    }
    encoded = run(texts + list(brief.values()))
    vectors = encoded[: len(rows)].copy()
    vectors[list(brief)] += encoded[len(rows) :]
    weights = np.array([weight for *_, weight in rows], np.float32)
    return vectors * (weights / np.linalg.norm(vectors, axis=1))[:, None]


def _index(work: Path, shards: list[Path], plan: Plan, nlist: int) -> search.Meta:
    dim = int(np.load(shards[0], mmap_mode="r").shape[1])
    index = search.empty_index(dim, plan.count, nlist)
    if not index.is_trained:
        index.train(_training_sample(shards))
    for number, path in enumerate(shards):
        vectors = np.load(path)
        first = 1 + number * SHARD_ROWS
        index.add_with_ids(vectors, np.arange(first, first + len(vectors), dtype=np.int64))
    faiss.write_index(index, str(work / search.VECTORS))
    lists = faiss.try_extract_index_ivf(index)
    return search.Meta(
        model="",
        dim=dim,
        count=plan.count,
        kind="flat" if lists is None else "ivf",
        nlist=0 if lists is None else int(lists.nlist),
        nprobe=0 if lists is None else int(lists.nprobe),
        version=plan.version,
    )


def _training_sample(shards: list[Path]) -> np.ndarray:
    chosen = shards
    if len(shards) > TRAINING_SHARDS_MAX:
        picks = np.random.default_rng(0).choice(len(shards), TRAINING_SHARDS_MAX, replace=False)
        chosen = [shards[at] for at in sorted(picks)]
    return np.concatenate([np.load(path) for path in chosen])


def _write(path: Path, content: bytes) -> None:
    """Write a file such that it is either whole or absent."""
    temporary = path.with_suffix(".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)

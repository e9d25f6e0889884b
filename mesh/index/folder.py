"""Opens an index folder, such that its parts are known to belong together.

Shell: files. Used by the roles retrieve and rerank, and by the tools.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SetupError
from mesh.index.search import BUILD, DOCUMENTS, META, VECTORS, Meta, Vectors, read_meta
from mesh.index.store import Store
from mesh.index.tokens import KEPT_MAX, TOKENS, TokenVectors

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Index:
    """An open index."""

    folder: Path
    meta: Meta
    store: Store
    vectors: Vectors


def open_index(folder: Path, nprobe: int = 0, model: str = "") -> Index:
    """Open an index and check it.

    Args:
        folder: with `meta.json`, `documents.db` and `vectors.faiss`.
        nprobe: of an IVF index; 0 takes its own.
        model: source of the encoder that queries will come from; "" is not checked.

    Raises:
        SetupError: a part is missing, unreadable, or of another build or model.
    """
    meta = read_meta(folder)
    if model and meta.model and model != meta.model:
        raise SetupError(
            f"the index {folder} was made with {meta.model!r}, queries come from {model!r}: "
            f"build it again with  {meta.command}"
        )
    store, vectors = open_store(folder), Vectors(folder / VECTORS, nprobe or meta.nprobe)
    if (vectors.dim, vectors.count) != (meta.dim, meta.count):
        raise SetupError(
            f"{folder / VECTORS}: expected {meta.count} vectors of width {meta.dim}, "
            f"found {vectors.count} of {vectors.dim}: build it again with  {meta.command}"
        )
    return Index(folder, meta, store, vectors)


def open_store(folder: Path) -> Store:
    """Open only the documents of an index.

    Raises:
        SetupError: there are none.
    """
    path = folder / DOCUMENTS
    if not path.is_file():
        raise SetupError(f"there are no documents {path}: build the index with  {BUILD}")
    return Store(path)


def open_tokens(folder: Path, model: str, chars_max: int) -> TokenVectors | None:
    """Open the token vectors of an index; None where these are not what would be computed.

    Without them every question's candidates are computed anew: the log says so, and how to
    build them, unless the index is larger than those that keep any.

    Args:
        folder: of the index, which may have been built without them.
        model: source of the encoder that questions come from.
        chars_max: how much of a document the reranker reads.

    Raises:
        SetupError: they are unreadable, or of another build than the rest.
    """
    path = folder / TOKENS
    if not path.is_file():
        if (folder / META).is_file() and (meta := read_meta(folder)).count <= KEPT_MAX:
            _tell_none(folder, "the index was built without", meta)
        return None
    meta, found = read_meta(folder), TokenVectors(path)
    if found.version != meta.version:
        found.close()
        raise SetupError(f"{path} is of another build: build it again with  {meta.command}")
    if (found.model, found.chars_max) != (model, chars_max):
        found.close()
        _tell_none(folder, f"they are of {found.model!r}, {found.chars_max} characters", meta)
        return None
    return found


def _tell_none(folder: Path, why: str, meta: Meta) -> None:
    facts = {"index": str(folder), "why": why, "build": meta.command}
    log.warning("index.no_token_vectors", extra=facts)


def index_folder(name: str, cache: Path) -> Path:
    """Return the folder that an option `index` means: a path, or a name in the cache."""
    if os.sep in name or name.startswith((".", "~")):
        return Path(name).expanduser()
    return cache / "index" / (name or "stdlib")

"""Finds the nearest vectors.

Arithmetic: faiss, numpy. Used by the role retrieve and by `tools.corpus`.

An index is a folder: `vectors.faiss`, `documents.db`, `meta.json`. Small ones are flat
and exact; large ones are inverted lists (IVF-Flat), whose vectors stay on disk and
are mapped into memory page by page.
"""

from __future__ import annotations

import math
from pathlib import Path

import faiss
import msgspec
import numpy as np

from mesh.errors import SetupError

FLAT_MAX = 50_000  # vectors; a flat search of 50,000 x 384 reads 77 MB, about 10 ms on one core
LISTS_PER_ROOT = 4  # nlist = 4 * sqrt(n), the lower end of what FAISS advises below 1 M
LISTS_MAX = 4096  # beyond about a million vectors, longer lists cost less than more centroids
PROBED_SHARE = 1 / 16  # of the lists; FAISS's default of one list loses far too much
MAPPED_BYTES_MIN = 256 << 20  # smaller files are read whole: faster, and no page faults later

META = "meta.json"
VECTORS = "vectors.faiss"
DOCUMENTS = "documents.db"
BUILD = "python -m tools.corpus"


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What `meta.json` says of an index."""

    model: str  # source of the encoder that made the vectors
    dim: int
    count: int  # of vectors
    kind: str  # "flat" or "ivf"
    metric: str = "ip"
    nlist: int = 0
    nprobe: int = 0
    corpus: str = ""  # what the documents are, e.g. "stdlib 3.11"
    version: str = ""  # digest of the documents and of how they were embedded
    command: str = BUILD  # that builds it again


class Vectors:
    """The vectors of an index; safe to search from several threads."""

    def __init__(self, path: Path, nprobe: int = 0) -> None:
        """Open a FAISS index file.

        Args:
            path: of the file, flat or IVF, L2 or inner product.
            nprobe: lists to search; 0 takes a sixteenth of them, or what the file says if more.

        Raises:
            SetupError: it is missing or not an index.
        """
        if not path.is_file():
            raise SetupError(f"there is no index {path}: build it with  {BUILD}")
        is_large = path.stat().st_size >= MAPPED_BYTES_MIN
        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if is_large else 0
        try:
            self._index = faiss.read_index(str(path), flags)
        except RuntimeError as error:  # all that faiss raises
            raise SetupError(
                f"cannot read the index {path}: build it again with  {BUILD}"
            ) from error
        self.dim, self.count = int(self._index.d), int(self._index.ntotal)
        self._is_similarity = self._index.metric_type == faiss.METRIC_INNER_PRODUCT
        self._search_settings = _probing(self._index, nprobe)

    def search(self, queries: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
        """Return for each query (id, similarity), best first.

        The similarity is the inner product; of an L2 index, what the distance says of it
        where both vectors are normalised.

        Args:
            queries: float32 [N, C].
            k: how many; fewer come where the index holds fewer.
        """
        wanted = np.ascontiguousarray(queries, np.float32)
        assert wanted.ndim == 2
        assert wanted.shape[1] == self.dim
        scores, ids = self._index.search(wanted, k, params=self._search_settings)
        if not self._is_similarity:
            scores = 1 - scores / 2  # |a - b|² = 2 - 2ab
        return [
            # -1 fills up what was not found. Ties go to the lower id, so that all nodes agree.
            sorted(
                ((int(id_), float(score)) for id_, score in zip(*row, strict=True) if id_ >= 0),
                key=lambda hit: (-hit[1], hit[0]),
            )
            for row in zip(ids, scores, strict=True)
        ]

    def similarity(self, query: np.ndarray, id_: int) -> float | None:
        """Return the similarity of one document, where the index can look it up by id."""
        if self._search_settings is not None or not isinstance(self._index, faiss.IndexIDMap2):
            return None  # inverted lists would need a table of all ids
        try:
            return float(query @ self._index.reconstruct(id_))
        except RuntimeError:  # the id is not in the index
            return None


def empty_index(dim: int, count: int, nlist: int = 0) -> faiss.Index:
    """Return an index for so many vectors by inner product, which takes their ids.

    Args:
        dim: width of the vectors.
        count: how many will come; up to `FLAT_MAX` it is flat, else IVF-Flat, to be trained.
        nlist: lists of an IVF index; 0 chooses, also between the kinds.
    """
    if count <= FLAT_MAX and not nlist:
        return faiss.index_factory(dim, "IDMap2,Flat", faiss.METRIC_INNER_PRODUCT)
    lists = nlist or lists_for(count)
    index = faiss.index_factory(dim, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(index).nprobe = probes_for(lists)
    return index


def lists_for(count: int) -> int:
    """Return nlist for a number of vectors: 4 times its root, at most 4096."""
    return max(1, min(LISTS_MAX, LISTS_PER_ROOT * math.isqrt(count)))


def probes_for(nlist: int) -> int:
    """Return how many of the lists to search: a sixteenth."""
    return max(1, round(nlist * PROBED_SHARE))


def read_meta(folder: Path) -> Meta:
    """Return what the index in a folder is.

    Raises:
        SetupError: the folder holds no index, or an unreadable one.
    """
    path = folder / META
    try:
        return msgspec.json.decode(path.read_bytes(), type=Meta)
    except FileNotFoundError as error:
        raise SetupError(f"there is no index in {folder}: build it with  {BUILD}") from error
    except (OSError, msgspec.DecodeError) as error:
        raise SetupError(f"cannot read {path}: {error}; build it again with  {BUILD}") from error


def _probing(index: faiss.Index, nprobe: int) -> faiss.SearchParameters | None:
    """Return settings of a search; per search, because the index is shared by threads."""
    lists = faiss.try_extract_index_ivf(index)
    if lists is None:
        return None
    probes = nprobe or max(int(lists.nprobe), probes_for(int(lists.nlist)))
    return faiss.SearchParametersIVF(nprobe=min(probes, int(lists.nlist)))  # type: ignore[call-arg]

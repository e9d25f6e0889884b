"""Retrieves documents: query and vector → ids and scores.

Shell: computes on its lane, over an index that is loaded once. Hybrid: the ranking
by vectors and the ranking by words (BM25) are joined by reciprocal rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mesh.errors import Unprocessable
from mesh.models.sources import cache_dir
from mesh.roles.base import Role
from mesh.wire.messages import Fields

DEPTH_MIN = 50  # of each ranking before they are joined: a good document may stand low in one


class Retrieve(Role):
    """Finds the ids of the documents nearest to a question, by meaning and by words."""

    takes: ClassVar[Mapping[str, Any]] = {"query": str | None, "vector": np.ndarray}
    gives: ClassVar[tuple[str, ...]] = ("ids", "scores")
    options: ClassVar[Mapping[str, Any]] = {
        "index": "stdlib",  # a folder, or a name in the cache's index folder
        "k": 30,  # candidates for the reranker
        "nprobe": 0,  # lists of an IVF index to search; 0: as it was built
        "hybrid": True,  # False: vectors alone
    }

    index: Any  # mesh.index.folder.Index; faiss comes with `load`: every node reads this class

    def load(self) -> None:
        """Open the index; a model, if the role names one, must be the index's."""
        from mesh.index.folder import index_folder, open_index
        from mesh.index.search import fuse
        from mesh.models.threads import use_threads

        self._fuse = fuse
        options = {**self.options, **self.context.options}
        self._k, self._is_hybrid = int(options["k"]), bool(options["hybrid"])
        folder = index_folder(str(options["index"]), cache_dir())
        self.index = open_index(folder, int(options["nprobe"]), self.context.model)
        use_threads(self.context.threads)

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Search all vectors at once, then the words of each query."""
        answers: list[Fields | Exception] = [self._wrong_width(item) for item in batch]
        good = [at for at, item in enumerate(batch) if self._has_right_width(item)]
        if good:
            vectors = np.stack([np.asarray(batch[at]["vector"], np.float32) for at in good])
            depth = max(DEPTH_MIN, self._k)
            for at, hits in zip(good, self.index.vectors.search(vectors, depth), strict=True):
                answers[at] = self._join(batch[at].get("query") or "", hits)
        return answers

    def statistics(self) -> dict[str, Any]:
        """Return what the index is."""
        meta = self.index.meta
        return {"index": meta.corpus, "kind": meta.kind, "documents": self.index.store.count}

    def close(self) -> None:
        """Close the documents."""
        self.index.store.close()

    def _join(self, query: str, near: list[tuple[int, float]]) -> Fields:
        if not (self._is_hybrid and query):
            best = [*dict(reversed(near)).items()][::-1]  # one document may have several vectors
        else:
            worded = self.index.store.search(query, max(DEPTH_MIN, self._k))
            best = self._fuse([[id_ for id_, _ in near], [id_ for id_, _ in worded]])
        best = best[: self._k]
        return {"ids": [id_ for id_, _ in best], "scores": [score for _, score in best]}

    def _has_right_width(self, item: Fields) -> bool:
        return np.shape(item["vector"]) == (self.index.vectors.dim,)

    def _wrong_width(self, item: Fields) -> Unprocessable:
        return Unprocessable(
            f"vector: expected width {self.index.vectors.dim}, found shape "
            f"{np.shape(item['vector'])}"
        )

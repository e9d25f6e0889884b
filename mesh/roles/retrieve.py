"""Retrieves documents: query and vector → ids and scores.

Shell: computes on its lane, over an index that is loaded once. Hybrid: the ranking
by vectors and the ranking by words (BM25) are joined by reciprocal rank. The scores are
similarities: the reranker weighs them against its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mesh.errors import Unprocessable
from mesh.index.ranking import fuse
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
        "words_weight": 0.5,  # of the ranking by words, against 1 by vectors; 0: vectors alone
    }

    index: Any  # mesh.index.folder.Index; faiss comes with `load`: every node reads this class

    def load(self) -> None:
        """Open the index; a model, if the role names one, must be the index's."""
        from mesh.index.folder import index_folder, open_index
        from mesh.models.threads import use_threads

        options = {**self.options, **self.context.options}
        self._k, self._words_weight = int(options["k"]), float(options["words_weight"])
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
                answers[at] = self._join(batch[at], hits)
        return answers

    def statistics(self) -> dict[str, Any]:
        """Return what the index is."""
        meta = self.index.meta
        return {"index": meta.corpus, "kind": meta.kind, "documents": self.index.store.count}

    def close(self) -> None:
        """Close the documents."""
        self.index.store.close()

    def _join(self, item: Fields, hits: list[tuple[int, float]]) -> Fields:
        near: dict[int, float] = {}
        for id_, similarity in hits:  # one document may have several vectors: its best counts
            near.setdefault(id_, similarity)
        ids = list(near)[: self._k]
        query = item.get("query")
        if query and self._words_weight:
            worded = self.index.store.search(query, max(DEPTH_MIN, self._k))
            rankings = [list(near), [id_ for id_, _ in worded]]
            joined = fuse(rankings, (1.0, self._words_weight))
            ids = [id_ for id_, _ in joined[: self._k]]
        lowest = min(near.values(), default=0.0)
        scores = [near[id_] if id_ in near else self._looked_up(item, id_, lowest) for id_ in ids]
        return {"ids": ids, "scores": scores}

    def _looked_up(self, item: Fields, id_: int, lowest: float) -> float:
        """Return the similarity of a document that only its words have found."""
        found = self.index.vectors.similarity(np.asarray(item["vector"], np.float32), id_)
        return lowest if found is None else found

    def _has_right_width(self, item: Fields) -> bool:
        return np.shape(item["vector"]) == (self.index.vectors.dim,)

    def _wrong_width(self, item: Fields) -> Unprocessable:
        return Unprocessable(
            f"vector: expected width {self.index.vectors.dim}, found shape "
            f"{np.shape(item['vector'])}"
        )

"""Reranks documents: query and ids → the best documents.

Shell: computes on its lane. With an encoder as its model it scores by late interaction
(each word of the question looks for its best match in the document); with a
sequence-classification model, by that cross-encoder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from mesh.errors import Unprocessable
from mesh.index.ranking import max_sim
from mesh.index.store import Document, Store
from mesh.models import sources
from mesh.roles.base import Role
from mesh.wire.messages import Fields

SIMILARITY_WEIGHT = 2.0
"""Of the retriever's similarity against late interaction's score. On the tuning questions
the right document was in the first five 31 times of 40 with 2, 30 with 1, 26 with 0."""

ID_END = 1 << 63  # SQLite's integers end here


class Rerank(Role):
    """Puts candidates in order and returns the best of them with their content.

    Candidates are ids in the index, with their similarities in `scores` if they are known;
    or `documents`: texts, or objects with `title` and `content`, whose place in the list
    then is their id. `top` asks for another number of them than the role's own, and `brief`
    for ids and scores without the texts.
    """

    takes: ClassVar[Mapping[str, Any]] = {
        "query": str,
        "ids": list | None,
        "scores": list | None,
        "documents": list | None,
        "top": int | None,
        "brief": bool | None,
    }
    gives: ClassVar[tuple[str, ...]] = ("documents",)
    options: ClassVar[Mapping[str, Any]] = {
        "index": "stdlib",  # a folder, or a name in the cache's index folder; "": given texts only
        "top": 5,  # documents that go on
        "content_chars_max": 2000,  # of each: what goes on travels to the next node
        "read_chars_max": 300,  # of each, by late interaction: how it begins says what it is
        "distinct_titles": True,  # of several passages with one title, only the best goes on
        "cache_bytes_max": 64 << 20,  # of token vectors kept; 64 MiB hold about 400 documents
    }

    def load(self) -> None:
        """Open the documents and the model."""
        # torch and faiss come with `load`: every node reads this class, few run it.
        from mesh.index.folder import index_folder, open_store
        from mesh.models.encoder import is_classifier, shared_classifier, shared_encoder
        from mesh.models.threads import use_threads

        use_threads(self.context.threads)
        options = {**self.options, **self.context.options}
        self._top, self._chars_max = int(options["top"]), int(options["content_chars_max"])
        self._is_distinct = bool(options["distinct_titles"])
        self._store: Store | None = None
        if options["index"]:
            self._store = open_store(index_folder(str(options["index"]), sources.cache_dir()))
        folder = sources.locate(self.context.model)
        self._judge: _LateInteraction | _CrossEncoder = (
            _CrossEncoder(shared_classifier(folder))
            if is_classifier(folder)
            else _LateInteraction(
                shared_encoder(folder),
                int(options["read_chars_max"]),
                int(options["cache_bytes_max"]),
            )
        )

    def cost(self, item: Fields) -> int:
        """Return how many candidates the item has."""
        return max(1, len(item.get("ids") or item.get("documents") or ()))

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Score the candidates of all items together, then sort those of each."""
        answers: list[Fields | Exception] = []
        jobs: list[tuple[int, str, list[Document]]] = []
        known: list[list[float]] = []
        for at, item in enumerate(batch):
            candidates = self._candidates(item)
            if isinstance(candidates, Exception):
                answers.append(candidates)
            else:
                answers.append({"documents": []})
                jobs.append((at, item["query"], candidates))
                known.append(_similarities(item, candidates))
        scores = self._judge.scores([(query, candidates) for _, query, candidates in jobs])
        weight = self._judge.similarity_weight
        for (at, _, candidates), row, near in zip(jobs, scores, known, strict=True):
            total = [own + weight * other for own, other in zip(row, near, strict=True)]
            best = self._best(candidates, total, batch[at].get("top") or self._top)
            if batch[at].get("brief"):
                best = [{"id": each["id"], "score": each["score"]} for each in best]
            answers[at] = {"documents": best}
        return answers

    def statistics(self) -> dict[str, Any]:
        """Return how scores are made, and what the cache holds."""
        return {"model": self.context.model, **self._judge.statistics()}

    def close(self) -> None:
        """Close the documents."""
        if self._store is not None:
            self._store.close()

    def _candidates(self, item: Fields) -> list[Document] | Exception:
        fault = _fault(item)
        if fault:
            return Unprocessable(f"rerank: {fault}")
        if item.get("ids") is not None:
            if self._store is None:
                return Unprocessable("rerank: this role has no index; expected documents, not ids")
            # An id without a document (an index newer than the documents) is passed over.
            ids = [id_ for id_ in item["ids"] if abs(id_) < ID_END]
            return [found for found in self._store.fetch(ids) if found is not None]
        given = item.get("documents")
        if given is None:
            return Unprocessable("rerank: expected ids or documents, found neither")
        return [_given(at, value) for at, value in enumerate(given)]

    def _best(
        self, candidates: list[Document], scores: Sequence[float], top: int
    ) -> list[dict[str, Any]]:
        order = sorted(range(len(candidates)), key=lambda at: -scores[at])  # stable
        best: list[dict[str, Any]] = []
        titles: set[str] = set()
        for at in order:
            document = candidates[at]
            if self._is_distinct and document.title and document.title in titles:
                continue
            titles.add(document.title)
            best.append(
                {
                    "id": document.id,
                    "title": document.title,
                    "content": document.content[: self._chars_max],
                    "score": round(float(scores[at]), 4),
                }
            )
            if len(best) == top:
                break
        return best


class _LateInteraction:
    """Scores by token vectors, which are kept for documents seen before."""

    similarity_weight = SIMILARITY_WEIGHT

    def __init__(self, encoder: Any, chars_max: int, cache_bytes_max: int) -> None:
        self._encoder, self._chars_max = encoder, chars_max
        self._bytes_max, self._bytes = cache_bytes_max, 0
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._hits = self._misses = 0

    def scores(self, jobs: Sequence[tuple[str, list[Document]]]) -> list[list[float]]:
        queries = self._encoder.token_vectors([query for query, _ in jobs])
        texts = [[text_of(doc)[: self._chars_max] for doc in candidates] for _, candidates in jobs]
        vectors = self._vectors(list(dict.fromkeys(text for row in texts for text in row)))
        return [
            [max_sim(query, vectors[text]) for text in row]
            for query, row in zip(queries, texts, strict=True)
        ]

    def statistics(self) -> dict[str, Any]:
        return {
            "reranker": "late interaction",
            "cache_bytes": self._bytes,
            "cache_hits": self._hits,
            "cache_misses": self._misses,
        }

    def _vectors(self, texts: list[str]) -> dict[str, np.ndarray]:
        found = {text: self._kept[text] for text in texts if text in self._kept}
        for text in found:
            self._kept.move_to_end(text)
        missing = [text for text in texts if text not in found]
        self._hits, self._misses = self._hits + len(found), self._misses + len(missing)
        for text, vectors in zip(missing, self._encoder.token_vectors(missing), strict=True):
            found[text] = vectors
            self._keep(text, vectors)
        return found

    def _keep(self, text: str, vectors: np.ndarray) -> None:
        # A copy: the vectors are a view of the whole pass's states, which must not stay alive.
        self._kept[text] = kept = vectors.copy()
        self._bytes += kept.nbytes
        while self._bytes > self._bytes_max:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes


class _CrossEncoder:
    """Scores by a model that reads question and document together."""

    similarity_weight = 0.0  # it knows better

    def __init__(self, classifier: Any) -> None:
        self._classifier = classifier

    def scores(self, jobs: Sequence[tuple[str, list[Document]]]) -> list[list[float]]:
        pairs = [(query, text_of(doc)) for query, candidates in jobs for doc in candidates]
        column = iter(self._classifier.scores(pairs)[:, -1].tolist() if pairs else ())
        return [list(islice(column, len(candidates))) for _, candidates in jobs]

    def statistics(self) -> dict[str, Any]:
        return {"reranker": "cross-encoder"}


def text_of(document: Document) -> str:
    """Return what the reranker reads of a document."""
    return f"{document.title}\n{document.content}" if document.title else document.content


def _similarities(item: Fields, candidates: Sequence[Document]) -> list[float]:
    """Return what the retriever said of each candidate; 0 where it said nothing."""
    known = dict(zip(item.get("ids") or (), item.get("scores") or (), strict=False))
    return [float(known.get(document.id, 0.0)) for document in candidates]


def _fault(item: Fields) -> str:
    """Return what is wrong with the values inside an item's lists, or ""."""
    for name, kinds, what in _INSIDE:
        wrong = [one for one in item.get(name) or () if type(one) not in kinds]
        if wrong:
            return f"{name}: expected {what}, found {wrong[0]!r:.60}"
    top = item.get("top")
    return f"top: expected at least 1, found {top}" if top is not None and top < 1 else ""


_INSIDE = (
    ("ids", (int,), "whole numbers"),
    ("scores", (int, float), "numbers"),
    ("documents", (str, dict), "texts, or objects with title and content"),
)


def _given(at: int, value: str | Mapping[str, Any]) -> Document:
    if isinstance(value, str):
        return Document(at, "", value, "")
    return Document(at, str(value.get("title", "")), str(value.get("content", "")), "")

"""Reranks documents: query and ids → the best documents.

Shell: computes on its lane. With an encoder as its model it scores by late interaction
(each word of the question looks for its best match in the document), with the token
vectors that the index keeps, or computed where it keeps none; with a sequence-classification
model, by that cross-encoder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from mesh.errors import Unprocessable
from mesh.index.passages import reranked_text
from mesh.index.ranking import max_sims
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
        "read_chars_max": 300,  # of each, by late interaction; the index keeps vectors of so many
        "distinct_titles": True,  # of several passages with one title, only the best goes on
        "cache_bytes_max": 64 << 20,  # of token vectors that the index lacks; about 800 documents
    }

    def load(self) -> None:
        """Open the documents and the model."""
        # torch and faiss come with `load`: every node reads this class, few run it.
        from mesh.index.folder import index_folder, open_store, open_tokens
        from mesh.models.encoder import is_classifier, shared_classifier, shared_encoder
        from mesh.models.threads import use_threads

        use_threads(self.context.threads)
        options = {**self.options, **self.context.options}
        self._top, self._chars_max = int(options["top"]), int(options["content_chars_max"])
        self._is_distinct = bool(options["distinct_titles"])
        chars_max = int(options["read_chars_max"])
        self._store: Store | None = None
        stored = None
        folder = sources.locate(self.context.model)
        if options["index"]:
            index = index_folder(str(options["index"]), sources.cache_dir())
            self._store = open_store(index)
            if not is_classifier(folder):
                stored = open_tokens(index, self.context.model, chars_max)
        self._judge: _LateInteraction | _CrossEncoder = (
            _CrossEncoder(shared_classifier(folder))
            if is_classifier(folder)
            else _LateInteraction(
                shared_encoder(folder), stored, chars_max, int(options["cache_bytes_max"])
            )
        )
        self._judge.scores([Job("warm", [Document(0, "", "warm", "")], is_stored=False)])

    def cost(self, item: Fields) -> int:
        """Return how many candidates the item has."""
        return max(1, len(item.get("ids") or item.get("documents") or ()))

    def run(self, batch: Sequence[Fields]) -> Sequence[Fields | Exception]:
        """Score the candidates of all items together, then sort those of each."""
        answers: list[Fields | Exception] = []
        jobs: list[Job] = []
        places: list[int] = []
        for at, item in enumerate(batch):
            candidates = self._candidates(item)
            if isinstance(candidates, Exception):
                answers.append(candidates)
            else:
                answers.append({"documents": []})
                jobs.append(Job(item["query"], candidates, item.get("ids") is not None))
                places.append(at)
        weight = self._judge.similarity_weight
        for at, job, row in zip(places, jobs, self._judge.scores(jobs), strict=True):
            near = _similarities(batch[at], job.candidates)
            total = [own + weight * other for own, other in zip(row, near, strict=True)]
            best = self._best(job.candidates, total, batch[at].get("top") or self._top)
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
        self._judge.close()

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


@dataclass(frozen=True, slots=True)
class Job:
    """One question and its candidates.

    Attributes:
        query: the question.
        candidates: documents to score.
        is_stored: they are of the index, so that their ids mean something there.
    """

    query: str
    candidates: list[Document]
    is_stored: bool


class _LateInteraction:
    """Scores by token vectors: the index's, or computed and kept for a while."""

    similarity_weight = SIMILARITY_WEIGHT

    def __init__(self, encoder: Any, stored: Any, chars_max: int, cache_bytes_max: int) -> None:
        self._encoder, self._stored, self._chars_max = encoder, stored, chars_max
        self._bytes_max, self._bytes = cache_bytes_max, 0
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._hits = self._misses = self._read = 0

    def scores(self, jobs: Sequence[Job]) -> list[list[float]]:
        queries = self._encoder.token_vectors([job.query for job in jobs])
        stored = [self._stored_of(job) for job in jobs]
        texts = [
            [self._text_of(job.candidates[at]) for at, one in enumerate(row) if one is None]
            for job, row in zip(jobs, stored, strict=True)
        ]
        computed = self._computed(list(dict.fromkeys(text for own in texts for text in own)))
        found: list[list[float]] = []
        for query, row, own in zip(queries, stored, texts, strict=True):
            missing = iter(own)
            vectors = [computed[next(missing)] if one is None else one for one in row]
            found.append(max_sims(query, vectors))
        return found

    def statistics(self) -> dict[str, Any]:
        return {
            "reranker": "late interaction",
            "read_from_index": self._read,
            "cache_bytes": self._bytes,
            "cache_hits": self._hits,
            "cache_misses": self._misses,
        }

    def close(self) -> None:
        if self._stored is not None:
            self._stored.close()

    def _stored_of(self, job: Job) -> list[np.ndarray | None]:
        """Return what the index keeps of each candidate."""
        if self._stored is None or not job.is_stored:
            return [None] * len(job.candidates)
        found = self._stored.fetch([document.id for document in job.candidates])
        self._read += sum(one is not None for one in found)
        return found

    def _text_of(self, document: Document) -> str:
        return reranked_text(document.title, document.content)[: self._chars_max]

    def _computed(self, texts: list[str]) -> dict[str, np.ndarray]:
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

    def scores(self, jobs: Sequence[Job]) -> list[list[float]]:
        pairs = [
            (job.query, reranked_text(document.title, document.content))
            for job in jobs
            for document in job.candidates
        ]
        column = iter(self._classifier.scores(pairs)[:, -1].tolist() if pairs else ())
        return [list(islice(column, len(job.candidates))) for job in jobs]

    def statistics(self) -> dict[str, Any]:
        return {"reranker": "cross-encoder"}

    def close(self) -> None:
        """It holds no file."""


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

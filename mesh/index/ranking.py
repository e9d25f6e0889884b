"""Joins rankings, scores by late interaction.

Pure, and arithmetic with numpy. Used by the roles retrieve and rerank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RRF_K = 60  # of reciprocal rank fusion: Cormack, Clarke, Buettcher 2009, where 60 was near the best


def fuse(
    rankings: Sequence[Sequence[int]], weights: Sequence[float] = (), k: int = RRF_K
) -> list[tuple[int, float]]:
    """Join rankings by reciprocal rank: score = sum of weight / (k + rank), rank from 1.

    Args:
        rankings: ids, best first; an id counts once per ranking, at its best place.
        weights: of each ranking; () for 1 each.
        k: the larger, the less the first places weigh.

    Returns:
        (id, score), best first; ties go to the lower id.
    """
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, id_ in enumerate(dict.fromkeys(ranking), start=1):
            scores[id_] = scores.get(id_, 0.0) + weight / (k + rank)
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))


def max_sim(query: np.ndarray, document: np.ndarray) -> float:
    """Return late interaction's score: each query token's best match, on average.

    Args:
        query: normalised token vectors [T, C].
        document: normalised token vectors [T, C].

    Source: Khattab, Zaharia, "ColBERT", 2020, section 3.4; divided by the number of query
    tokens, which changes no order and makes scores of queries comparable.
    """
    if not len(query) or not len(document):
        return 0.0
    return float((query @ document.T).max(axis=1).mean())


def max_sims(query: np.ndarray, documents: Sequence[np.ndarray]) -> list[float]:
    """Return `max_sim` of one query with many documents, in one product.

    Args:
        query: normalised token vectors [T, C].
        documents: token vectors [T, C] of any type and any length of row: here they are
            brought to length one.
    """
    scores = [0.0] * len(documents)
    filled = [at for at, document in enumerate(documents) if len(document)]
    if not filled or not len(query):
        return scores
    rows = np.concatenate([documents[at] for at in filled]).astype(np.float32)
    lengths = np.sqrt(np.einsum("tc,tc->t", rows, rows))
    near = (query @ rows.T) / np.where(lengths > 0.0, lengths, 1.0)
    starts = np.cumsum([0, *(len(documents[at]) for at in filled[:-1])])
    best = np.maximum.reduceat(near, starts, axis=1).mean(axis=0)
    for at, score in zip(filled, best.tolist(), strict=True):
        scores[at] = score
    return scores

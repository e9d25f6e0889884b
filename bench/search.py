"""Measures search in the mesh's index against FAISS alone and against exact search.

    python -m bench.search [--count 100000] [--rounds 5]

Shell. The same random vectors, clustered as texts are; recall of the first ten against an exact
search; times of one query at a time and of 32 together.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bench.report import progress, publish, spread, table
from mesh.index.search import Vectors, empty_index, lists_for

WIDTH = 384  # of MiniLM
TOPICS = 500
QUERIES = 256
K = 10
Search = Callable[[np.ndarray], np.ndarray]


def vectors(count: int, seed: int) -> np.ndarray:
    """Return normalised vectors around fixed topics, [count, WIDTH]."""
    topics = np.random.default_rng(0).standard_normal((TOPICS, WIDTH), dtype=np.float32)
    rng = np.random.default_rng(seed)
    found = topics[rng.integers(0, TOPICS, count)]
    found += rng.standard_normal((count, WIDTH), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def contestants(folder: Path, count: int) -> dict[str, Search]:
    """Build one index with the mesh's own settings, and return the ways to search it."""
    nlist = lists_for(count)
    kept = vectors(count, 1)
    index = empty_index(WIDTH, count, nlist)
    if not index.is_trained:
        index.train(kept)
    index.add_with_ids(kept, np.arange(count, dtype=np.int64))
    file = folder / "vectors.faiss"
    faiss.write_index(index, str(file))
    ours, alone = Vectors(file), faiss.read_index(str(file))
    settings = ours._search_settings  # the same lists are searched by both
    exact = faiss.IndexFlatIP(WIDTH)
    exact.add(kept)
    return {
        "mesh index": lambda q: np.array([[i for i, _ in hits] for hits in ours.search(q, K)]),
        "FAISS alone, same settings": lambda q: alone.search(q, K, params=settings)[1],
        "FAISS, exact": lambda q: exact.search(q, K)[1],
    }


def timed(search: Search, queries: np.ndarray, batch: int) -> float:
    """Return milliseconds per query."""
    began_s = time.perf_counter()
    for start in range(0, len(queries), batch):
        search(queries[start : start + batch])
    return (time.perf_counter() - began_s) / len(queries) * 1e3


def measure(count: int, rounds: int) -> tuple[str, dict[str, Any]]:
    """Return the table and the raw figures."""
    faiss.omp_set_num_threads(1)
    queries = vectors(QUERIES, 2)
    with tempfile.TemporaryDirectory() as folder:
        ways = contestants(Path(folder), count)
        truth = ways["FAISS, exact"](queries)
        recall = {name: _recall(search(queries), truth) for name, search in ways.items()}
        times: dict[str, dict[int, list[float]]] = {name: {1: [], 32: []} for name in ways}
        for turn in range(rounds):
            names = list(ways) if turn % 2 == 0 else list(reversed(ways))
            for name in names:
                for batch in (1, 32):
                    times[name][batch].append(timed(ways[name], queries, batch))
            progress(f"round {turn + 1}/{rounds}")
    rows = [
        [name, f"{recall[name]:.3f}", spread(times[name][1], 3), spread(times[name][32], 3)]
        for name in ways
    ]
    head = ["search", f"recall@{K}", "ms alone", "ms each of 32"]
    note = f"{count:,} vectors of {WIDTH}, {lists_for(count)} lists, one thread."
    return table(head, rows) + "\n\n" + note, {"recall": recall, "ms": times}


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.size


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    body, data = measure(given.count, given.rounds)
    publish("search", "Vector search", body, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())

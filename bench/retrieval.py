"""Measures search in the demo's index: how often it finds what is right, what reranking costs.

    python -m bench.retrieval [--rounds 3]

Shell. The roles themselves, in this process, one thread, over the 40 questions of
`tests/retrieval`. Reranking is timed one question at a time: with the token vectors that the
index keeps, and with vectors computed anew, as for documents that are in no index.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from bench.report import middle, progress, publish, spread, table
from mesh.index.folder import index_folder
from mesh.index.search import read_meta
from mesh.models import sources
from mesh.roles.base import Context
from mesh.roles.embed import Embed
from mesh.roles.rerank import Rerank
from mesh.roles.retrieve import Retrieve
from mesh.wire.messages import Fields
from tools import retrieval

INDEX = "stdlib"
COMPUTED = {"read_chars_max": 299, "cache_bytes_max": 0}  # the index keeps vectors of 300


def candidates(asked: list[str], model: str) -> list[Fields]:
    """Return what a reranker is asked for each question."""
    embed = Embed(Context("embed", model=model))
    retrieve = Retrieve(Context("retrieve", {"index": INDEX, "k": retrieval.CANDIDATES}))
    for role in (embed, retrieve):
        role.load()
    vectors = embed.run([{"text": ask} for ask in asked])
    items = [{"query": ask, **one} for ask, one in zip(asked, vectors, strict=True)]  # type: ignore[dict-item]
    found = retrieve.run(items)
    return [{"query": ask, **one} for ask, one in zip(asked, found, strict=True)]  # type: ignore[dict-item]


def measure(rounds: int) -> tuple[str, dict[str, Any]]:
    """Return the tables and the raw figures."""
    questions = retrieval.read_questions(retrieval.QUESTIONS)
    found = retrieval.search(questions, INDEX)
    hits = {way: retrieval.hits(questions, titles) for way, titles in found.items()}
    model = read_meta(index_folder(INDEX, sources.cache_dir())).model
    items = candidates([one.ask for one in questions], model)
    ways = {
        "the index's token vectors": Rerank(Context("rerank", {"index": INDEX}, model)),
        "computed anew": Rerank(Context("rerank", {"index": INDEX, **COMPUTED}, model)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for role in ways.values():
        role.load()
        role.run(items[:2])
    for turn in range(rounds):
        for name, role in ways.items() if turn % 2 == 0 else reversed(ways.items()):
            times[name].append(middle([_timed_ms(role, item) for item in items]))
        shown = {name: round(took[-1], 2) for name, took in times.items()}
        progress(f"round {turn + 1}/{rounds}: {shown}")
    count = len(questions)
    first = table(["search", f"right in the first 5, of {count}"], list(hits.items()))
    second = table(
        ["reranking 30 candidates", "ms a question"],
        [[name, spread(took, 2)] for name, took in times.items()],
    )
    return f"{first}\n\n{second}", {"questions": count, "hits": hits, "rerank_ms": times}


def _timed_ms(role: Rerank, item: Fields) -> float:
    began_s = time.perf_counter()
    (answer,) = role.run([item])
    if isinstance(answer, Exception):
        raise answer
    return (time.perf_counter() - began_s) * 1e3


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    body, data = measure(given.rounds)
    publish("retrieval", "Finding what answers a question", body, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures how well questions find what answers them: by vectors, hybrid, reranked.

Shell: runs the roles themselves over an index, prints a table.

    python -m tools.retrieval
    python -m tools.retrieval --questions my_questions.toml --index notes --misses
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mesh.errors import EXIT_SETUP, SetupError
from mesh.index.folder import index_folder
from mesh.index.search import read_meta
from mesh.index.store import Document
from mesh.models import sources
from mesh.roles.base import Context, Role
from mesh.wire.messages import Fields
from tools import stop

QUESTIONS = Path("tests/retrieval/questions.toml")
TOP = 5
CANDIDATES = 30


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the titles that answer it."""

    ask: str
    right: frozenset[str]


Found = dict[str, list[list[str]]]
"""For each way to search, the titles found for each question, best first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.retrieval",
        description="Recall of an index over questions with known answers.",
        epilog="example:\n  python -m tools.retrieval --misses",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--questions", type=Path, default=QUESTIONS)
    parser.add_argument("--index", default="stdlib", help="a folder, or a name in the cache")
    parser.add_argument("--misses", action="store_true", help="show what was found instead")
    options = parser.parse_args(arguments)
    try:
        questions = read_questions(options.questions)
        found = search(questions, options.index)
    except SetupError as error:
        print(error, file=sys.stderr)
        return EXIT_SETUP
    _print(questions, found, options.misses)
    return 0


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a TOML file."""
    with path.open("rb") as file:
        listed = tomllib.load(file)["question"]
    return [Question(each["ask"], frozenset(each["right"])) for each in listed]


def search(questions: Sequence[Question], index: str = "stdlib") -> Found:
    """Return what each way to search finds for each question."""
    from mesh.roles.embed import Embed
    from mesh.roles.rerank import Rerank
    from mesh.roles.retrieve import Retrieve

    model = read_meta(index_folder(index, sources.cache_dir())).model
    common = {"index": index, "k": CANDIDATES}
    embed = Embed(Context("embed", model=model))
    dense = Retrieve(Context("dense", {**common, "words_weight": 0.0}))
    hybrid = Retrieve(Context("hybrid", common))
    rerank = Rerank(Context("rerank", {"index": index, "top": 10}, model))
    for role in (embed, dense, hybrid, rerank):
        role.load()
    asked = [each.ask for each in questions]
    vectors = _run(embed, [{"text": ask} for ask in asked])
    items = [{"query": ask, **found} for ask, found in zip(asked, vectors, strict=True)]
    near, joined = _run(dense, items), _run(hybrid, items)
    items = [{"query": ask, **found} for ask, found in zip(asked, joined, strict=True)]
    ranked = _run(rerank, items)
    store = hybrid.index.store
    return {
        "dense": [_titles(store.fetch(answer["ids"])) for answer in near],
        "hybrid": [_titles(store.fetch(answer["ids"])) for answer in joined],
        "reranked": [[doc["title"] for doc in answer["documents"]] for answer in ranked],
    }


def _run(role: Role, items: Sequence[Fields]) -> list[Fields]:
    answers: list[Fields] = []
    for answer in role.run(items):
        if isinstance(answer, Exception):
            raise answer
        answers.append(answer)
    return answers


def _titles(documents: Sequence[Document | None]) -> list[str]:
    return list(dict.fromkeys(document.title for document in documents if document))


def hits(questions: Sequence[Question], titles: Sequence[list[str]], top: int = TOP) -> int:
    """Return for how many questions a right title is among the first `top`."""
    pairs = zip(questions, titles, strict=True)
    return sum(not question.right.isdisjoint(found[:top]) for question, found in pairs)


def mean_reciprocal_rank(questions: Sequence[Question], titles: Sequence[list[str]]) -> float:
    """Return the mean of 1 / rank of the first right title in the first ten, 0 where none is."""
    total = 0.0
    for question, found in zip(questions, titles, strict=True):
        ranks = [rank for rank, title in enumerate(found[:10], 1) if title in question.right]
        total += 1 / ranks[0] if ranks else 0.0
    return total / len(questions)


def _print(questions: Sequence[Question], found: Found, with_misses: bool) -> None:
    count = len(questions)
    table = Table(title=f"{count} questions", title_justify="left")
    for column in ("", "first", "in 3", "in 5", f"in {CANDIDATES}", "MRR@10"):
        table.add_column(column, justify="right" if column else "left")
    for way, titles in found.items():
        cells = [str(hits(questions, titles, top)) for top in (1, 3, TOP)]
        cells.append(str(hits(questions, titles, CANDIDATES)) if way != "reranked" else "")
        table.add_row(way, *cells, f"{mean_reciprocal_rank(questions, titles):.3f}")
    Console().print(table)
    if with_misses:
        for question, best in zip(questions, found["reranked"], strict=True):
            if question.right.isdisjoint(best[:TOP]):
                print(f"{question.ask}\n  found {', '.join(best[:TOP])}")


if __name__ == "__main__":
    stop.run(main)

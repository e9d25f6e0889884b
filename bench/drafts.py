"""Measures what guessing tokens from what was said before saves, and costs where nothing repeats.

    python -m bench.drafts [--rounds 5] [--threads 2]

Shell. SmolLM2-135M-Instruct Q4_1 in one engine without drafts and one with; both stay loaded and
take turns, in another order each round. Questions have three paragraphs of this project's pages
as sources, others each round; answers have 128 tokens, end tokens ignored. A figure is tokens of
all answers per second, without the prompts. Medians over rounds, with the least and the most; a
ratio is the median of the rounds' ratios. Both must say the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from bench.llm import SOURCE
from bench.report import progress, publish, spread, table
from bench.servers import ROOT
from bench.workers import Worker
from mesh.models import sources

MODES = {"without": 0, "with drafts": 7}
WORK: dict[str, dict[str, object]] = {
    "question with sources, 1 answer": {"what": "sources", "rows": 1, "temperature": 0.0},
    "the same, temperature 0.8": {"what": "sources", "rows": 1, "temperature": 0.8},
    "the same, 4 answers at once": {"what": "sources", "rows": 4, "temperature": 0.0},
    "random prompt, 1 answer": {"what": "random", "rows": 1, "temperature": 0.0},
    "random prompts, 8 answers at once": {"what": "random", "rows": 8, "temperature": 0.0},
}

Figures = dict[str, dict[str, list[float]]]


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workers = {mode: _open(mode, chosen.threads, Path(folder)) for mode in MODES}
        figures = _measure(workers, chosen.rounds)
        for worker in workers.values():
            worker.close()
    title = f"Drafts looked up in what was said, {chosen.threads} threads, tokens per second"
    publish("drafts", title, _table(figures), figures)
    return 0


def _open(mode: str, threads: int, folder: Path) -> Worker:
    progress(f"{mode}: loading")
    path = str(sources.locate(SOURCE))
    command = [sys.executable, "-m", "bench.contestants.llm_drafts", path, str(threads)]
    return Worker([*command, str(MODES[mode])], ROOT, threads, folder / f"{mode}.txt")


def _measure(workers: dict[str, Worker], rounds: int) -> Figures:
    figures: Figures = {work: {mode: [] for mode in workers} for work in WORK}
    modes = list(workers)
    for turn in range(rounds + 1):
        for work, wish in WORK.items():
            said = []
            for mode in modes if turn % 2 else reversed(modes):
                found = workers[mode].ask(**wish, turn=turn)
                said.append(found["said"])
                if turn:  # the first is for warming up
                    figures[work][mode].append(float(found["tokens_per_s"]))
            assert said[0] == said[1], f"{work}: the answers differ"
        progress(f"round {turn}")
    return figures


def _table(figures: Figures) -> str:
    rows = []
    for work, each in figures.items():
        pairs = zip(each["with drafts"], each["without"], strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        rows.append([work, *(spread(each[mode]) for mode in MODES), f"{ratio:.2f}"])
    return table(["", *MODES, "with / without"], rows)


if __name__ == "__main__":
    sys.exit(main())

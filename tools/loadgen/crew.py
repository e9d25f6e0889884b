"""Starts the load processes of one phase, follows their progress, gathers their samples.

Shell: each process is `python -m tools.loadgen.worker`; all of them begin at one moment of
the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tools.loadgen.kind import What
from tools.loadgen.plan import Load, Work, split
from tools.loadgen.sample import Sample
from tools.loadgen.worker import Orders, Report

PROJECT = Path(__file__).resolve().parents[2]
START_S = 0.05  # from the word to the begin, so that the word has reached every process
LINE_BYTES_MAX = 1 << 30  # the samples of one process are one line


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a run but its phases."""

    targets: list[str]
    mix: list[What]
    processes: int = 1
    timeout_s: float = 300.0
    in_flight_max: int = 10_000
    seed: int = 1
    headers: dict[str, str] = {}

    async def run(self, load: Load, progress: Callable[[int, int], None]) -> Result:
        """Do one phase; `progress` is told (done, failed) about twice a second."""
        run = f"-{secrets.token_hex(4)}"
        works = split(load, self.processes, self.seed)
        hands = [Hand(self._orders(work, run)) for work in works]

        def tell() -> None:
            progress(sum(one.told.done for one in hands), sum(one.told.failed for one in hands))

        try:
            async with asyncio.TaskGroup() as group:
                for hand in hands:
                    group.create_task(hand.start())
            begin_s = time.monotonic() + START_S
            async with asyncio.TaskGroup() as group:
                for hand in hands:
                    group.create_task(hand.follow(begin_s, tell))
        finally:
            for hand in hands:
                await hand.aclose()
        samples = [sample for hand in hands for sample in hand.told.samples or ()]
        first_s = min((one.intended_s for one in samples), default=0.0)
        last_s = max((one.end_s for one in samples), default=0.0)
        return Result(
            sorted(samples, key=lambda one: one.intended_s),
            last_s - first_s,
            [hand.told.cpu_share for hand in hands],
        )

    def _orders(self, work: Work, run: str) -> Orders:
        return Orders(
            self.targets,
            self.mix,
            work,
            self.timeout_s,
            self.in_flight_max,
            self.seed,
            self.headers,
            run,
        )


class Hand:
    """One load process."""

    def __init__(self, orders: Orders) -> None:
        self.told = Report()
        self._orders = orders
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process and wait until it is ready to begin."""
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tools.loadgen.worker",
            cwd=PROJECT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        await self._write(msgspec.json.encode(self._orders))
        await self._read()

    async def follow(self, begin_s: float, tell: Callable[[], None]) -> None:
        """Let the process begin, and read its reports until the last one."""
        await self._write(str(begin_s).encode())
        while self.told.samples is None:
            await self._read()
            tell()

    async def aclose(self) -> None:
        """End the process, whatever it does."""
        if self._child is None:
            return
        if self._child.returncode is None and self.told.samples is None:
            self._child.kill()
        await self._child.wait()

    async def _write(self, line: bytes) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(line + b"\n")
        await self._child.stdin.drain()

    async def _read(self) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        line = await self._child.stdout.readline()
        if not line:
            raise RuntimeError("a load process ended without a result; its report stands above")
        self.told = msgspec.json.decode(line, type=Report)


class Result(msgspec.Struct, frozen=True):
    """What one phase gave."""

    samples: list[Sample]
    wall_s: float
    cpu_shares: list[float]

"""Sends the requests of one process and takes their times.

Shell: started by `tools.loadgen`. Reads its orders as one line of JSON from standard input,
makes its bodies, says that it is ready, and reads when to begin. Writes JSON lines to
standard output: first its progress, at last every sample.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from itertools import count

import aiohttp
import msgspec
import orjson

from tools.loadgen.kind import Kind, Ready, Verdict, What, kind_of
from tools.loadgen.lines import Line, Lines
from tools.loadgen.plan import Work
from tools.loadgen.sample import Sample, class_of_status

PROGRESS_S = 0.5
TICK_S = 0.002  # the last of a wait is spent turning the loop: its timers are coarser
NOTE_CHARS_MAX = 160
DONE = b"[DONE]"  # how an OpenAI stream says that it is complete


class Orders(msgspec.Struct, frozen=True):
    """What one process is told."""

    targets: list[str]
    mix: list[What]
    work: Work
    timeout_s: float = 300.0
    in_flight_max: int = 10_000
    seed: int = 1
    headers: dict[str, str] = {}
    run: str = ""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of progress, or with `samples` the end."""

    done: int = 0
    failed: int = 0
    samples: list[Sample] | None = None
    cpu_share: float = 0.0


class Stopwatch(msgspec.Struct):
    """What was seen of one answer while it came."""

    body: bytes = b""
    first_s: float = 0.0
    last_s: float = 0.0
    gaps_s: list[float] = []
    pieces: int = 0
    seen_bytes: int = 0
    failure: str = ""
    note: str = ""


class Worker:
    """Runs one process's part of a load."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._kinds = [kind_of(what, orders.seed, orders.run) for what in orders.mix]
        self._weights = [what.weight for what in orders.mix]
        self._samples: list[Sample] = []
        self._failed = 0
        self._in_flight = 0
        self._begin_s = 0.0
        self._session: aiohttp.ClientSession
        self._lines = Lines()

    def now_s(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self._begin_s

    def statistics(self) -> Report:
        """Return how far the run is."""
        return Report(len(self._samples), self._failed)

    async def run(self, session: aiohttp.ClientSession, begin_s: float) -> list[Sample]:
        """Do the work; every request ends within `timeout_s`.

        Args:
            session: sends the requests; whoever opened it closes it.
            begin_s: time zero, on the machine's monotonic clock, which all processes share.
        """
        self._session, self._begin_s = session, begin_s
        work = self._orders.work
        await asyncio.sleep(max(0.0, -self.now_s()))
        try:
            await (self._run_open(work) if work.load.is_open else self._run_closed(work))
        finally:
            self._lines.close()
        return self._samples

    async def _run_open(self, work: Work) -> None:
        """Start each request at its time, whatever became of the others."""
        async with asyncio.TaskGroup() as group:
            for n, intended_s in enumerate(work.starts):
                await self._wait_until(intended_s)
                number = work.first + n * work.stride
                if self._in_flight >= self._orders.in_flight_max:
                    kind = self._kind_of(number)
                    self._keep(
                        Sample(kind.what.kind, intended_s, intended_s, intended_s, "client_dropped")
                    )
                else:
                    group.create_task(self._one(number, intended_s))

    async def _run_closed(self, work: Work) -> None:
        """Keep `concurrent` requests in flight until enough were made or the time is over."""
        numbers = count(work.first, work.stride)
        last = work.first + work.load.requests * work.stride if work.load.requests else None

        async def slot() -> None:
            for number in numbers:  # shared by the slots: each number is taken once
                if last is not None and number >= last:
                    return
                if work.load.seconds and self.now_s() >= work.load.seconds:
                    return
                await self._one(number, self.now_s())

        async with asyncio.TaskGroup() as group:
            for _ in range(work.load.concurrent):
                group.create_task(slot())

    async def _wait_until(self, moment_s: float) -> None:
        """Wait for a moment: never early, hardly late, though the loop's timers are coarse."""
        if (wait_s := moment_s - self.now_s()) > TICK_S:
            await asyncio.sleep(wait_s - TICK_S)
        while self.now_s() < moment_s:  # noqa: ASYNC110 - no event says that a moment has come
            await asyncio.sleep(0.0)

    def _kind_of(self, number: int) -> Kind:
        """Return the kind of a request: drawn by weight, the same in every run of a seed."""
        if len(self._kinds) == 1:
            return self._kinds[0]
        rng = random.Random(self._orders.seed * 1_000_003 + number)
        return rng.choices(self._kinds, self._weights)[0]

    async def _one(self, number: int, intended_s: float) -> None:
        """Send one request and keep its sample."""
        kind = self._kind_of(number)
        ready = kind.ready(number)
        target = self._orders.targets[number % len(self._orders.targets)]
        watch, sent_s = Stopwatch(), self.now_s()
        self._in_flight += 1
        try:
            async with asyncio.timeout(self._orders.timeout_s):
                await self._exchange(target, ready, watch)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            watch.failure = watch.failure or _class_of(error)
            watch.note = watch.note or f"{type(error).__name__}: {error}"
        finally:
            self._in_flight -= 1
        end_s = watch.last_s or self.now_s()
        verdict = (
            Verdict(watch.failure, note=watch.note)
            if watch.failure
            else _judged(kind, ready, watch.body)
        )
        self._keep(
            Sample(
                kind.what.kind,
                intended_s,
                sent_s,
                end_s,
                verdict.failure,
                verdict.node,
                verdict.stages,
                watch.first_s,
                tuple(watch.gaps_s),
                verdict.tokens or watch.pieces,
                sum(map(len, ready.body)),
                watch.seen_bytes,
                verdict.note[:NOTE_CHARS_MAX],
            )
        )

    def _keep(self, sample: Sample) -> None:
        self._samples.append(sample)
        self._failed += bool(sample.failure)

    async def _exchange(self, target: str, ready: Ready, watch: Stopwatch) -> None:
        """Send a request and read its answer to the end."""
        headers = {"Content-Type": ready.content_type, **self._orders.headers}
        data = ready.body[0] if len(ready.body) == 1 else b"".join(ready.body)
        post = (
            self._lines.post(ready.path, data)
            if ready.is_line
            else self._session.post(target + ready.path, data=data, headers=headers)
        )
        async with post as answer:
            watch.failure = class_of_status(answer.status)
            if isinstance(answer, Line) or watch.failure or not ready.is_stream:
                watch.body = await answer.read()
                watch.seen_bytes = len(watch.body)
            else:
                await self._follow(answer, watch)
        watch.last_s = self.now_s()
        if watch.failure and not watch.note:
            watch.note = watch.body[:NOTE_CHARS_MAX].decode(errors="replace")

    async def _follow(self, answer: aiohttp.ClientResponse, watch: Stopwatch) -> None:
        """Read server-sent events: stamp each piece of text first, read it afterwards."""
        is_complete = False
        before_s = 0.0
        async for name, data in _events(answer):
            now_s = self.now_s()
            watch.seen_bytes += len(data)
            if data == DONE:
                is_complete = True
                continue
            if name == "error":
                watch.failure, watch.note = "stream_error", data[:NOTE_CHARS_MAX].decode()
                return
            if _has_text(name, data):
                watch.pieces += 1
                if before_s:
                    watch.gaps_s.append(now_s - before_s)
                else:
                    watch.first_s = now_s
                before_s = now_s
            if name == "done":
                is_complete, watch.body = True, data
            elif name == "" and b'"usage":{' in data.replace(b" ", b""):
                watch.body = data
        if not is_complete:
            watch.failure = "truncated"
        watch.body = watch.body or b"{}"


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, bytes]]:
    """Yield (event name, data) of a stream, as each line comes."""
    name = ""
    async for line in answer.content:
        if line.startswith(b"event:"):
            name = line[6:].strip().decode()
        elif line.startswith(b"data:"):
            yield name, line[5:].strip()
        elif not line.strip():
            name = ""


def _has_text(name: str, data: bytes) -> bool:
    """Whether an event carries a non-empty piece of text."""
    if name == "token":
        return b'"text":""' not in data
    if name:
        return False
    try:
        choices = orjson.loads(data).get("choices") or [{}]
        return bool(choices[0].get("delta", {}).get("content") or choices[0].get("text"))
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"an event that is no chunk of a chat: {data[:40]!r}") from error


def _class_of(error: Exception) -> str:
    """Return the failure class of what the HTTP library or the system raised."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "connect_timeout"
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
        return "connect_refused"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "truncated"
    if isinstance(error, ValueError):  # a stream's event that is no JSON, or no line
        return "bad_payload"
    return "reset"


def _judged(kind: Kind, ready: Ready, body: bytes) -> Verdict:
    """Return what a complete answer says; one of a shape that nobody thought of is unreadable."""
    try:
        return kind.judge(ready, body)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        return Verdict("bad_payload", note=f"{type(error).__name__}: {error}")


async def work(worker: Worker, begin_s: float) -> None:
    """Run the orders and write progress and samples to standard output."""
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=3600)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=1 << 20
    ) as session:
        gc.collect()
        gc.freeze()
        gc.disable()  # samples only grow: collecting would scan them again and again
        cpu_s, wall_s = time.process_time(), time.monotonic()
        running = asyncio.create_task(worker.run(session, begin_s))
        while not running.done():
            await asyncio.wait([running], timeout=PROGRESS_S)
            _say(worker.statistics())
        share = (time.process_time() - cpu_s) / max(1e-9, time.monotonic() - wall_s)
        samples = await running
        _say(msgspec.structs.replace(worker.statistics(), samples=samples, cpu_share=share))


def _say(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Take orders, say that they were understood, begin when told."""
    import uvloop

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the crew, which ends us
    worker = Worker(msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders))
    _say(worker.statistics())
    uvloop.run(work(worker, float(sys.stdin.buffer.readline())))


if __name__ == "__main__":
    main()

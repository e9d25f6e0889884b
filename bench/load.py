"""Sends one POST after another over a number of kept connections, and times the answers.

Shell: a process of its own (`python -m bench.load`), so that it never shares a loop with what
it measures. It speaks just enough HTTP/1.1 to be several times faster than the servers. A
closed loop: each connection sends its next request when it has its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

CLIENT_SHARE_MAX = 0.9  # of one core: above it, the client may be what is measured

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"transfer-encoding: *chunked", re.IGNORECASE)


class Tally:
    """What all connections of one run have seen since `restart`."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget the warm-up."""
        self.latencies_s: list[float] = []
        self.errors: dict[str, int] = {}

    def fail(self, reason: str) -> None:
        """Count one failure."""
        self.errors[reason] = self.errors.get(reason, 0) + 1


class Connection(asyncio.Protocol):
    """One kept connection: write, wait for the whole answer, write again."""

    def __init__(self, requests: Sequence[bytes], first: int, tally: Tally) -> None:
        self._requests, self._next, self._tally = requests, first, tally
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start at once."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._send()

    def _send(self) -> None:
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take what came; go on when the answer is whole."""
        if self._buffer:
            data = self._buffer + data
        if not is_whole(data):
            self._buffer = data
            return
        self._buffer = b""
        if data.startswith(b"HTTP/1.1 200"):
            self._tally.latencies_s.append(time.perf_counter() - self._sent_s)
        else:
            self._tally.fail(data[9:12].decode("latin-1"))
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        """Servers that close a kept connection are counted, not followed."""
        self._tally.fail("closed")


def is_whole(data: bytes) -> bool:
    """Whether `data` holds a complete answer; an answer never begins before it is asked for."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    length = _LENGTH.search(data, 0, head)
    if length:
        return len(data) >= head + 4 + int(length[1])
    return not _CHUNKED.search(data, 0, head) or data.endswith(b"0\r\n\r\n")


def request(path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return the bytes of one POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def measure(
    port: int, requests: Sequence[bytes], connections: int, warm_s: float, seconds: float
) -> dict[str, object]:
    """Return the figures of one run."""
    loop, tally = asyncio.get_running_loop(), Tally()
    for number in range(connections):
        # Connections ask different things at a time.
        make = partial(Connection, requests, number * 7, tally)
        await loop.create_connection(make, "127.0.0.1", port)
    await asyncio.sleep(warm_s)
    tally.restart()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return figures(tally, took_s, cpu_s)


def figures(tally: Tally, took_s: float, cpu_s: float) -> dict[str, object]:
    """Return what is told of a run; percentiles with too few samples beyond them are absent."""
    ordered = sorted(tally.latencies_s)
    shown = {
        f"p{percent:g}_ms": round(ordered[int(len(ordered) * percent / 100)] * 1e3, 4)
        for percent in (50, 90, 99, 99.9)
        if len(ordered) * (100 - percent) / 100 >= 10 or (percent == 50 and ordered)
    }
    return {
        "requests": len(ordered),
        "errors": dict(tally.errors),
        "requests_per_s": round(len(ordered) / took_s, 1),
        **shown,
        "client_share": round(cpu_s / took_s, 3),
    }


def main() -> int:
    """Run once and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--bodies", type=Path, required=True, help="one body per line")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warm", type=float, default=0.5)
    given = parser.parse_args()
    requests = [request(given.path, line) for line in given.bodies.read_bytes().splitlines()]
    found = uvloop.run(measure(given.port, requests, given.connections, given.warm, given.seconds))
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

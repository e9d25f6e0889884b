"""The connections of requests in JSON lines, in the place of an HTTP session.

Shell: as an HTTP client does it, each request has a connection to itself while it lasts, and
connections are kept for the next. `tools.loadgen.worker` times both alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

LINE_BYTES_MAX = 64 << 20  # an answer is one line; no answer of a pipeline is as long


class Line(Struct, frozen=True):
    """A whole answer; what it says stands in the line itself."""

    body: bytes
    status: int = 200

    async def read(self) -> bytes:
        """Return the line."""
        return self.body


class Lines:
    """Connections to the ports on which nodes speak to each other."""

    def __init__(self) -> None:
        self._idle: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    @asynccontextmanager
    async def post(self, address: str, data: bytes) -> AsyncIterator[Line]:
        """Send a line and give the one that answers it.

        Args:
            address: "host:port".
            data: the line, with its end.

        Raises:
            OSError: no connection, or it broke before the answer.
        """
        idle = self._idle.setdefault(address, [])
        reader, writer = idle.pop() if idle else await _open(address)
        try:
            writer.write(data)
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionResetError("the connection ended before the answer")
        except BaseException:
            writer.close()  # what would come is no answer to the next request
            raise
        idle.append((reader, writer))
        yield Line(line)

    def close(self) -> None:
        """Close what is idle, which is all once the requests have ended."""
        for idle in self._idle.values():
            for _, writer in idle:
                writer.close()


async def _open(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port), limit=LINE_BYTES_MAX)

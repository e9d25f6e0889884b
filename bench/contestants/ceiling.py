"""A server that computes nothing and answers constant bytes: what the client itself can do."""

from __future__ import annotations

import asyncio
import sys

import uvloop

BODY = b'{"y":[' + b",".join([b"0.123456"] * 64) + b"]}"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


class Constant(asyncio.Protocol):
    """Answers each read; requests of this bench fit into one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to answer."""
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        """Answer."""
        self._transport.write(ANSWER)  # type: ignore[attr-defined]


async def serve(port: int) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Constant, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))

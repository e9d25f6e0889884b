"""Measures one hop between two nodes on loopback: calls per second, and the time of a lone call.

    python bench/hop.py [--calls 60000] [--in-flight 64] [--rounds 5] [--loop uvloop]

Both ends run in this process, so one core does the work of two nodes. Each round
prints a line; the last line holds the medians. The processor's time per call is the
figure to compare on a machine that others use too.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import numpy as np
import uvloop

from mesh.net.peers import Peers, Reply
from mesh.settings.schema import Limits
from mesh.wire.messages import Answer, Call, Piece

WARM_UP_COUNT = 2000


async def echo(call: Call, reply: Reply) -> Answer:
    """Answer with what was asked."""
    return Answer(call.fields)


async def turn(call: Call, reply: Reply) -> Answer:
    """Send each piece back: the hop of a split model."""
    async for piece in reply:
        await reply.send(piece)
    return Answer({})


async def flood(peers: Peers, address: str, count: int, in_flight: int) -> tuple[float, float]:
    """Return calls per second with `in_flight` callers, and processor time per call in us."""
    call = Call(to="echo", fields={"id": 17, "text": "how long is a hop?"})

    async def caller(share: int) -> None:
        for _ in range(share):
            await peers.call(address, call)

    count -= count % in_flight
    began_s, busy_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller(count // in_flight) for _ in range(in_flight)))
    took_s, busy_s = time.perf_counter() - began_s, time.process_time() - busy_s
    return count / took_s, busy_s / count * 1e6


async def lone(peers: Peers, address: str, fields: dict, count: int) -> float:
    """Return the median time of a call with nothing else going on, in milliseconds."""
    call = Call(to="echo", fields=fields)
    took_ms = []
    for _ in range(count):
        began_s = time.perf_counter()
        await peers.call(address, call)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(took_ms)


async def pieces(peers: Peers, address: str, count: int) -> float:
    """Return the median time of a piece there and back, in milliseconds."""
    piece = Piece({"hidden": np.zeros((1, 576), np.float32)})
    took_ms = []
    stream = peers.stream(address, Call(to="turn", wants_pieces=True))
    for _ in range(count):
        began_s = time.perf_counter()
        await stream.send(piece)
        await anext(stream)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    await stream.aclose()
    return statistics.median(took_ms)


async def measure(options: argparse.Namespace) -> None:
    """Run the rounds and print them."""
    server = Peers(mesh_name="bench", node="server", secret="", limits=Limits())
    client = Peers(mesh_name="bench", node="client", secret="", limits=Limits())
    server.serve("echo", echo)
    server.serve("turn", turn)
    address = await server.listen("127.0.0.1:0")
    await flood(client, address, WARM_UP_COUNT, options.in_flight)
    tensor = {"image": np.zeros(150_528, np.float64)}  # 1.2 MB
    rows = []
    for number in range(options.rounds):
        row = (
            *await flood(client, address, options.calls, options.in_flight),
            await lone(client, address, {"id": 17}, 2000),
            await pieces(client, address, 2000),
            await lone(client, address, tensor, 50),
        )
        rows.append(row)
        _show(f"round {number}", row)
    _show("median", tuple(statistics.median(column) for column in zip(*rows, strict=True)))
    await client.aclose()
    await server.aclose()


def _show(name: str, row: tuple[float, ...]) -> None:
    print(
        f"{name}: {row[0]:.0f} calls/s ({row[1]:.1f} us of processor time each), lone call"
        f" {row[2]:.3f} ms, piece there and back {row[3]:.3f} ms,"
        f" 1.2 MB there and back {row[4]:.2f} ms"
    )


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=60_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    options = parser.parse_args()
    factory = uvloop.new_event_loop if options.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure(options))


if __name__ == "__main__":
    main()

"""The load generator against a server whose behaviour is known."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from aiohttp import web

from tools.loadgen.crew import Crew
from tools.loadgen.kind import What
from tools.loadgen.plan import Load
from tools.loadgen.summary import summarize

pytestmark = [pytest.mark.live, pytest.mark.slow]


class Server:
    """Answers `/v1/pipelines/ask` after `service_s`; stands still once for `stall_s`."""

    def __init__(self, *, service_s=0.0, stall_s=0.0, status=200, cut=False):
        self.service_s, self.stall_s, self.status, self.cut = service_s, stall_s, status, cut
        self.seen = 0

    async def answer(self, request):
        body = await request.json()
        self.seen += 1
        if self.stall_s and self.seen == 5:
            import time

            time.sleep(self.stall_s)  # noqa: ASYNC251 - the whole server stands still, as if stopped
        await asyncio.sleep(self.service_s)
        if not body.get("stream"):
            stage = {"name": "embed", "node": "n1", "ran_ms": 1.5}
            return web.json_response(
                {"answer": "yes", "trace": {"stages": [stage]}}, status=self.status
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for text in ("one ", "two "):
            data = json.dumps({"field": "answer", "text": text}, separators=(",", ":"))
            await response.write(f"event: token\ndata: {data}\n\n".encode())
        if not self.cut:
            await response.write(b'event: done\ndata: {"answer": "one two", "trace": {}}\n\n')
        return response


def measure(server, load, what=None, **options):
    """Run one phase against `server` and return its summary."""

    async def scenario():
        app = web.Application()
        app.router.add_post("/v1/pipelines/ask", server.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        target = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            crew = Crew(targets=[target], mix=[what or What()], **options)
            outcome = await crew.run(load, lambda done, failed: None)
        finally:
            await runner.cleanup()
        return summarize(load, outcome.samples, outcome.wall_s, outcome.cpu_shares)

    return asyncio.run(scenario())


def test_closed_loop_sends_each_request_once():
    server = Server()
    found = measure(server, Load(requests=40, concurrent=4), processes=2)
    assert 40 == server.seen == found["successful_requests"]
    assert {"n1": 40} == found["node_distribution"]
    assert 1.5 == found["stages"][0]["ran_ms"]


def test_open_loop_sees_a_stall_in_every_request_that_met_it():
    """A server that stands still for 0.4 s at 100/s delays some forty requests, not one."""
    server = Server(stall_s=0.4)
    found = measure(server, Load(rate=100.0, seconds=1.0, arrival="constant"))
    late = sum(count for floor, count in found["histogram"] if floor > 0.05)
    assert late >= 25
    assert found["latency"]["max"] >= 350.0


def test_stream_is_timed_by_its_pieces():
    found = measure(Server(), Load(requests=3), What(stream=True))
    assert 3 == found["successful_requests"], found["failure_notes"]
    assert 6 == found["tokens"]
    assert found["first_token"]["median"] <= found["latency"]["median"]


def test_stream_without_its_end_is_a_failure():
    found = measure(Server(cut=True), Load(requests=2), What(stream=True))
    assert {"truncated": 2} == found["failures"]


@pytest.mark.parametrize(
    ("server", "expected"),
    [(Server(status=503), "http_503"), (Server(service_s=5.0), "timeout")],
    ids=["refused", "silent"],
)
def test_failures_have_their_class(server, expected):
    found = measure(server, Load(requests=2, concurrent=2), timeout_s=0.3)
    assert {expected: 2} == found["failures"]


def test_nobody_there_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def scenario():
        crew = Crew(targets=[f"http://127.0.0.1:{port}"], mix=[What()])
        return await crew.run(Load(requests=2), lambda done, failed: None)

    outcome = asyncio.run(scenario())
    assert ["connect_refused"] * 2 == [one.failure for one in outcome.samples]

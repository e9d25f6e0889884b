"""Requests in JSON lines are timed and judged as those by HTTP are."""

from __future__ import annotations

import asyncio
import json

import pytest

from tools.loadgen.kind import What
from tools.loadgen.plan import Load, Work
from tools.loadgen.worker import Orders, Worker

pytestmark = pytest.mark.live

GOOD = {"answer": "yes", "trace": {"stages": [{"name": "embed", "node": "n1", "ran_ms": 1.5}]}}


def measured(reply, requests=12, concurrent=3):
    """Return the samples of a load on a server of lines, and how many connections it saw."""

    async def main():
        seen = []

        async def serve(reader, writer):
            seen.append(writer)
            while line := await reader.readline():
                if (answer := reply(json.loads(line))) is None:
                    break
                writer.write(json.dumps(answer).encode() + b"\n")
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            what = What("lines", peer=f"{host}:{port}")
            work = Work(Load("x", requests=requests, concurrent=concurrent), [])
            worker = Worker(Orders(["http://nobody"], [what], work))
            return await worker.run(None, 0.0), len(seen)

    return asyncio.run(asyncio.wait_for(main(), 10))


def test_each_request_has_a_connection_to_itself_which_is_kept():
    samples, connections = measured(lambda line: {"id": line["id"], "result": GOOD})
    assert (12, 3) == (len(samples), connections)
    assert {""} == {sample.failure for sample in samples}
    assert {"embed"} == {stage.name for sample in samples for stage in sample.stages}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (lambda line: {"id": line["id"], "error": "overloaded: full"}, "line_error"),
        (lambda line: {"id": "other", "result": GOOD}, "wrong_answer"),
        (lambda line: {"id": line["id"], "result": {}}, "wrong_answer"),
        (lambda line: {"id": line["id"]}, "bad_payload"),
        (lambda line: 5, "bad_payload"),
        (lambda line: None, "reset"),
    ],
)
def test_a_wrong_answer_has_its_class(reply, expected):
    samples, _ = measured(reply, requests=2, concurrent=1)
    assert [expected] * 2 == [sample.failure for sample in samples]

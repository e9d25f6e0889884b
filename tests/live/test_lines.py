"""JSON lines on the port for nodes say what the HTTP door says of the same request."""

from __future__ import annotations

import asyncio
import json

import pytest

from mesh.settings.schema import Security
from tests.support.live import mesh, wait_idle

pytestmark = pytest.mark.live

LINES = [
    ({"id": 1, "method": "ask", "params": {"query": "hi"}}, "H I "),
    ({"id": 2, "method": "ask", "params": {"query": 5}}, "unprocessable"),
    ({"id": 3, "method": "ask", "params": {}}, "unprocessable"),
    ({"id": 4, "method": "ask", "params": {"query": "x", "stream": True}}, "unprocessable"),
    ({"id": 5, "method": "nope"}, "not_found"),
]


async def told(node, lines):
    host, _, port = node.peer_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    answers = {}
    for _ in lines:
        one = json.loads(await reader.readline())
        answers[one.get("id")] = one
    writer.close()
    return answers


def test_lines_are_answered_by_pipelines_and_counted(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, _):
            answers = await told(nodes[0], [line for line, _ in LINES])
            for line, expected in LINES:
                one = answers[line["id"]]
                found = one["result"]["answer"] if "result" in one else one["error"].split(":")[0]
                assert found == expected
            trace = answers[1]["result"]["trace"]
            assert trace == json.loads(json.dumps(nodes[0].parts.traces.get(trace["id"])))
            await wait_idle(nodes)

    asyncio.run(main())


def test_lines_are_refused_where_the_doors_want_keys(tmp_path):
    async def main():
        async with mesh(tmp_path, security=Security(api_keys=("key",))) as (nodes, _):
            answers = await told(nodes[0], [LINES[0][0]])
            assert answers[1]["error"].startswith("unauthorized: ")

    asyncio.run(main())

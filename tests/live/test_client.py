"""The client asks any node, goes on to the next when one is gone, and passes errors on."""

from __future__ import annotations

import asyncio

import pytest

from mesh import Client
from mesh.errors import DeadlineExceeded, Draining, NotFound, RoleError, Unprocessable, Unreachable
from tests.support.live import mesh, wait_idle, wait_until
from tests.support.roles import Spell

pytestmark = pytest.mark.live

DEAD = "http://127.0.0.1:9"  # nothing listens on the discard port


def urls(nodes) -> list[str]:
    return [f"http://{node.http_address}" for node in nodes]


def test_client_reads_answers_streams_and_views(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, _), Client(urls(nodes)) as client:
            reply = await client.ask("ask", query="ab", request_id="mine")
            assert (reply["answer"], reply.trace["id"]) == ("A B ", "mine")
            assert dict(reply) == reply.fields
            events = [event async for event in client.stream("ask", query="ab")]
            assert "".join(e.data["text"] for e in events if e.name == "token") == "A B "
            assert events[-1].name == "done"
            assert (await client.call("count", text="four"))["count"] == 4
            assert (await client.query("ab"))["generated_response"] == "A B "
            assert [m["name"] for m in await client.members()] == ["n0", "n1", "n2"]
            assert (await client.stats())["node"] == "n0"
            await wait_idle(nodes)

    asyncio.run(main())


def test_client_goes_on_to_a_node_that_answers(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, _):
            async with Client([DEAD, *urls(nodes)]) as client:
                assert (await client.ask("ask", query="ab"))["answer"] == "A B "
            nodes[0].admission.drain()
            async with Client(urls(nodes)) as client:
                assert (await client.ask("ask", query="ab"))["answer"] == "A B "
                assert (await client.stats())["node"] == "n1"
            async with Client(urls(nodes)[0]) as client:
                with pytest.raises(Draining) as caught:
                    await client.ask("ask", query="ab")
                assert caught.value.retry_after_s == 1.0
            async with Client(DEAD) as client:
                with pytest.raises(Unreachable):
                    await client.ask("ask", query="ab")

    asyncio.run(main())


def test_client_raises_what_the_mesh_answered(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, _), Client(urls(nodes)) as client:
            with pytest.raises(NotFound):
                await client.ask("nope", query="x")
            with pytest.raises(Unprocessable, match="query must be a string, not a number"):
                await client.ask("ask", query=5)
            with pytest.raises(DeadlineExceeded):
                await client.ask("slow", query="x", deadline_s=0.05)
            with pytest.raises(RoleError):
                _ = [event async for event in client.stream("ask", query="fail")]
            with pytest.raises(Unprocessable):
                _ = [event async for event in client.stream("ask", query=5)]

    asyncio.run(main())


def test_leaving_a_stream_ends_the_work(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, _), Client(urls(nodes)) as client:
            stream = client.stream("ask", query="forever")
            async for event in stream:
                if event.name == "token":
                    break
            assert Spell.running == 1
            await stream.aclose()
            await wait_until(lambda: Spell.running == 0)
            await wait_idle(nodes)

    asyncio.run(main())

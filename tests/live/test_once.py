"""A request that comes twice under one id is computed once, at whichever doors it comes."""

from __future__ import annotations

import asyncio

import pytest

from mesh.client import Client
from tests.support.live import mesh, url

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_one_id_at_two_doors_is_one_answer(tmp_path):
    async def main():
        async with mesh(tmp_path) as (nodes, http):
            slow, one = "/v1/pipelines/slow", {"query": "a", "request_id": "one"}

            async def ask(node) -> str:
                async with http.post(url(node, slow), json=one) as response:
                    return (await response.json())["loud"]

            assert ["A"] * 3 == await asyncio.gather(*map(ask, nodes))
            async with Client([url(nodes[2], "")]) as client:
                assert "A" == (await client.ask("slow", request_id="one", query="a"))["loud"]
                assert "B" == (await client.ask("slow", request_id="one", query="b"))["loud"]
            ran = [node.local.statistics().get("slow", {}) for node in nodes]
            assert 2 == sum(role.get("total_items", 0) for role in ran)

    asyncio.run(main())

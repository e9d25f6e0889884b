"""Real processes: started in any order, killed, told to leave, and refused with one report."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import pytest

from tests.support.live import TOPOLOGY
from tests.support.processes import processes, run_mesh, wait_ready, wait_seen, wait_stats

pytestmark = [pytest.mark.live, pytest.mark.slow]

ASK = "/v1/pipelines/ask"


def test_killed_node_is_missed_and_welcomed_back(tmp_path):
    """Any order of start; a kill gives clear errors in time; a restart needs nobody's help."""

    async def main():
        async with processes(tmp_path, TOPOLOGY) as (nodes, http):
            n0, n1, n2 = nodes
            for node in (n2, n0, n1):
                await node.start()
            await wait_ready(http, nodes)
            for node in nodes:
                async with http.post(node.url(ASK), json={"query": "hi"}) as response:
                    assert (await response.json())["answer"] == "H I "

            asked = http.post(n0.url(ASK), json={"query": "forever", "stream": True})
            async with asked as response:
                assert b"event: " in await response.content.readany()
                n2.kill(signal.SIGKILL)
                rest = (await response.content.read()).decode()
            assert "event: error" in rest
            began_s = time.monotonic()
            headers = {"X-Deadline-Ms": "3000"}
            async with http.post(n0.url(ASK), json={"query": "hi"}, headers=headers) as response:
                body = await response.json()
            assert response.status in (502, 503), body
            assert time.monotonic() - began_s < 3.0
            await n2.wait()
            for node in (n0, n1):
                await wait_seen(http, node, [n0, n1])
            assert time.monotonic() - began_s < 10.0

            await n2.start()
            await wait_ready(http, nodes)
            async with http.post(n0.url(ASK), json={"query": "hi"}) as response:
                body = await response.json()
            assert body.get("answer") == "H I ", body

    asyncio.run(main())


def test_told_to_end_a_node_finishes_leaves_and_exits_well(tmp_path):
    async def main():
        async with processes(tmp_path, TOPOLOGY) as (nodes, http):
            for node in nodes:
                await node.start()
            await wait_ready(http, nodes)
            running = asyncio.create_task(_ask(http, nodes[1].url("/v1/pipelines/slow")))
            await wait_stats(http, nodes[1], lambda stats: stats["active_requests"])
            nodes[1].kill(signal.SIGTERM)
            assert await running == 200
            assert await nodes[1].wait() == 0
            assert "node.left" in nodes[1].events()
            for node in (nodes[0], nodes[2]):
                await wait_seen(http, node, [nodes[0], nodes[2]])

    asyncio.run(main())


async def _ask(http, address: str) -> int:
    async with http.post(address, json={"query": "x"}) as response:
        return response.status


FAULTS = [
    (("roles:Spell", "roles:Unloadable"), "roles.spell: the model is not there"),
    (("[roles.spell]", "[models.m]\nsource = 'path:no'\n[roles.spell]\nmodel = 'm'"), "models.m: "),
]


def test_setup_errors_end_with_78_and_one_report(tmp_path):
    async def main():
        async with processes(tmp_path, TOPOLOGY, count=1) as (nodes, _):
            config = str(nodes[0].config)
            assert await run_mesh("--config", config, "--check") == (
                0, f"{config} and {tmp_path}/topology.toml are in order\n",
            )  # fmt: skip
            with socket.create_server(("127.0.0.1", 0)) as taken:
                address = f"127.0.0.1:{taken.getsockname()[1]}"
                for key in ("HTTP", "PEER"):
                    code, said = await run_mesh(
                        "--config", config, **{f"MESH__LISTEN__{key}": address}
                    )
                    assert (code, said.count("\n")) == (78, 2), said
                    assert address in said
            for change, expected in FAULTS:
                text = TOPOLOGY.replace('nodes = ["n2"]', 'nodes = ["n0"]').replace(*change)
                (tmp_path / "topology.toml").write_text(text)
                code, said = await run_mesh("--config", config)
                assert code == 78, said
                assert expected in said
                assert "Traceback" not in said
            (tmp_path / "topology.toml").unlink()
            code, said = await run_mesh("--config", config)
            assert (code, "no such file" in said) == (78, True)
            code, said = await run_mesh("--config", config, python=("-O",))
            assert (code, "python -O" in said) == (78, True)

    asyncio.run(main())


def test_idle_node_stays_small(tmp_path):
    """A node without model roles is a door: it must cost next to nothing."""
    topology = '[mesh]\nname = "idle"\n[roles.shout]\nkind = "tests.support.roles:Shout"\n'
    topology += 'nodes = ["elsewhere"]\n[roles.embed]\nkind = "embed"\nnodes = ["elsewhere"]\n'
    topology += '[roles.rerank]\nkind = "rerank"\nnodes = ["elsewhere"]\n'

    async def main():
        async with processes(tmp_path, topology, count=1) as (nodes, http):
            await nodes[0].start()
            stats = await wait_stats(http, nodes[0], lambda stats: stats["process"]["uptime_s"] > 0)
            assert stats["process"]["rss_bytes"] < 100e6

    asyncio.run(main())

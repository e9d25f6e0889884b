"""A mesh changes its topology, hands roles over and lets nodes go while it answers."""

from __future__ import annotations

import asyncio

import pytest

from mesh.settings.schema import Security
from tests.support.live import knows, mesh, url, wait_idle, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

TOPOLOGY = """
[mesh]
name = "test"
epoch = {epoch}
[roles.shout]
kind = "tests.support.roles:Shout"
nodes = {nodes}
[roles.spell]
kind = "tests.support.roles:Spell"
replicas = 1
[pipelines.say]
input = ["text"]
output = ["loud"]
[[pipelines.say.stages]]
name = "shout"
role = "shout"
take = {{ text = "text" }}
give = {{ text = "loud" }}
{more}
"""
MORE = """
[pipelines.count]
input = ["text"]
output = ["count"]
[[pipelines.count.stages]]
name = "count"
role = "count"
take = { text = "text" }
give = { count = "count" }
[roles.count]
kind = "tests.support.roles:Count"
nodes = ["n0"]
"""


def text(epoch: int, nodes: str = '["n1"]', more: str = "") -> str:
    return TOPOLOGY.format(epoch=epoch, nodes=nodes, more=more)


class Asking:
    """Asks without a pause until it ends, and keeps every status."""

    def __init__(self, http, address: str) -> None:
        self._http, self._address = http, address
        self.statuses: list[int] = []

    async def __aenter__(self):
        self._task = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            async with self._http.post(self._address, json={"text": "a"}) as response:
                self.statuses.append(response.status)


def test_a_change_reaches_every_node_and_fails_no_request(tmp_path):
    async def main():
        async with mesh(tmp_path, text(1)) as (nodes, http):
            async with Asking(http, url(nodes[2], "/v1/pipelines/say")) as asking:
                changes = [text(2, '["n2"]', MORE), text(3, '["n0", "n1"]', MORE), text(4)]
                for epoch, change in enumerate(changes, start=2):
                    admin = url(nodes[epoch % 3], "/admin/topology")
                    async with http.post(admin, data=change) as response:
                        assert response.status == 200, await response.text()
                    await wait_until(lambda e=epoch: all(n.topology.mesh.epoch == e for n in nodes))
                    count = url(nodes[1], "/v1/pipelines/count")
                    async with http.post(count, json={"text": "abc"}) as response:
                        assert response.status == (404 if epoch == 4 else 200)
                await wait_until(lambda: "shout" not in nodes[2].local.ready)
            assert {200} == set(asking.statuses)
            assert len(asking.statuses) > 5  # a busy machine
            for node in nodes:
                assert (tmp_path / node.settings.name / "topology.toml").read_text() == text(4)
            await wait_idle(nodes)

    asyncio.run(main())


def test_a_bad_change_is_refused_with_the_reason(tmp_path):
    async def main():
        async with mesh(tmp_path, text(1), count=2) as (nodes, http):
            rows = [
                (text(2).replace('"shout"', '"shot"'), "shot"),
                (text(1, '["n0"]'), "expected more than 1"),
                (text(2).replace('name = "test"', 'name = "other"'), "another mesh"),
            ]
            for offered, expected in rows:
                admin = url(nodes[0], "/admin/topology")
                async with http.post(admin, data=offered) as response:
                    assert (response.status, expected in await response.text()) == (422, True)
                async with http.get(url(nodes[0], "/stats")) as response:
                    refused = (await response.json())["topology"]["refused"]
                assert expected in str(refused["reasons"])
            assert [1, 1] == [node.topology.mesh.epoch for node in nodes]

    asyncio.run(main())


def test_a_node_that_is_told_to_go_hands_its_roles_over(tmp_path):
    async def main():
        async with mesh(tmp_path, text(1, '["n0", "n1", "n2"]')) as (nodes, http):
            await wait_until(lambda: sum("spell" in node.local.ready for node in nodes) == 1)
            owner = next(node for node in nodes if "spell" in node.local.ready)
            door = next(node for node in nodes if node is not owner)
            async with Asking(http, url(door, "/v1/roles/spell")) as asking:
                async with http.post(url(owner, "/admin/drain")) as response:
                    assert response.status == 202
                async with http.get(url(owner, "/readyz")) as response:
                    assert "draining" in await response.text()
                left = [node for node in nodes if node is not owner]
                await wait_until(lambda: any("spell" in node.local.ready for node in left))
                await wait_until(lambda: owner.admission.is_draining)
            assert {200} == set(asking.statuses)
            await wait_until(lambda: all(knows(node, 2) for node in left))

    asyncio.run(main())


def test_admin_doors_want_a_key_where_there_are_keys(tmp_path):
    async def main():
        security = Security(api_keys=("secret",))
        async with mesh(tmp_path, text(1, '["n0"]'), count=1, security=security) as (nodes, http):
            for path in ("/admin/drain", "/admin/topology"):
                async with http.post(url(nodes[0], path)) as response:
                    assert response.status == 401
            assert nodes[0].why_not_ready() == ""

    asyncio.run(main())

"""Nodes as real processes: they become ready, a dead one is noticed, none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from mesh.client import Client
from tools import fleet
from tools.fleet import NodeDied

pytestmark = [pytest.mark.live, pytest.mark.slow]

ROLE = """
from mesh.roles.base import Role


class Shout(Role):
    takes = {"text": str}
    gives = ("text",)

    def run(self, batch):
        return [{"text": item["text"].upper()} for item in batch]
"""
TOPOLOGY = """
[mesh]
name = "fleet"
[roles.shout]
kind = "fleet_shout:Shout"
nodes = ["n0"]
[pipelines.loud]
input = ["words"]
output = ["loud_words"]
[[pipelines.loud.stages]]
name = "shout"
role = "shout"
take = { text = "words" }
give = { text = "loud_words" }
"""


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """Two nodes on free ports; the role of the README is on the first."""
    (tmp_path / "fleet_shout.py").write_text(ROLE)
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("n0", "n1"):
        text = f'name = "{name}"\ntopology = "topology.toml"\n'
        (tmp_path / f"{name}.toml").write_text(text)
    found, _ = fleet.nodes_of(sorted(tmp_path.glob("n?.toml")), tmp_path)
    fleet.move(found, tmp_path)
    return found


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_nodes_answer_and_leave(nodes):
    """A pipeline answers at the node that does not hold its role, and both end in order."""

    async def scenario():
        async with fleet.running(nodes):
            await fleet.wait_ready(nodes)
            async with Client(nodes[1].url) as mesh:
                reply = await mesh.ask("loud", words="hello")
            await fleet.stop(nodes)
        return dict(reply)

    assert {"loud_words": "HELLO"} == asyncio.run(scenario())
    assert [0, 0] == [node.process.returncode for node in nodes]


def test_dead_node_is_reported_and_the_others_are_stopped(nodes):
    """A killed process ends the run with its report; no process stays."""

    async def scenario():
        async with fleet.running(nodes):
            await fleet.wait_ready(nodes)
            nodes[1].process.kill()
            await fleet.wait_death(nodes)

    with pytest.raises(NodeDied, match="n1 ended with code -9"):
        asyncio.run(scenario())
    assert not any(is_running(node.process.pid) for node in nodes)


def test_a_program_that_is_told_to_end_leaves_no_node(nodes):
    """SIGTERM, as `timeout` and a service manager send it."""

    async def scenario():
        async with fleet.running(nodes):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    assert not any(is_running(node.process.pid) for node in nodes)


def test_wrong_settings_are_shown(nodes):
    """What the node says about its files is in the report."""
    nodes[0].config.write_text('name = "n0"\ntopology = "nowhere.toml"\n')

    async def scenario():
        async with fleet.running(nodes[:1]):
            await fleet.wait_ready(nodes[:1])

    with pytest.raises(NodeDied, match=r"code 78.*(?s:.*)nowhere\.toml"):
        asyncio.run(scenario())

"""Several whole nodes in one process, on loopback, on ports that the system chooses."""

from __future__ import annotations

import asyncio
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from mesh.node import Node
from mesh.settings.load import Settings
from mesh.settings.schema import Compute, Gossip, Join, Limits, Listen, Log, Security
from mesh.settings.schema import Node as NodeSettings
from mesh.settings.topology import Topology

QUICK = Gossip(
    probe_interval_s=0.1,
    probe_timeout_s=0.05,
    gossip_interval_s=0.02,
    sync_interval_s=1.0,
    rejoin_interval_s=0.2,
)
READY_S = 10.0

TOPOLOGY = """
[mesh]
name = "test"
[roles.shout]
kind = "tests.support.roles:Shout"
nodes = ["n1"]
[roles.slow]
kind = "tests.support.roles:Shout"
nodes = ["n1"]
sleep_s = 0.2
[roles.count]
kind = "tests.support.roles:Count"
nodes = ["n2"]
[roles.spell]
kind = "tests.support.roles:Spell"
nodes = ["n2"]

[pipelines.ask]
input = ["query"]
output = ["answer", "sources", "sentiment", "is_toxic"]
[[pipelines.ask.stages]]
name = "shout"
role = "shout"
take = { text = "query" }
give = { text = "loud" }
[[pipelines.ask.stages]]
name = "spell"
role = "spell"
take = { text = "loud" }
give = { spelled = "answer" }
[[pipelines.ask.stages]]
name = "count"
role = "count"
take = { text = "loud" }
give = { count = "sources", is_long = "is_toxic" }
[[pipelines.ask.stages]]
name = "again"
role = "shout"
take = { text = "answer" }
give = { text = "sentiment" }

[pipelines.slow]
input = ["query"]
output = ["loud"]
[[pipelines.slow.stages]]
name = "slow"
role = "slow"
take = { text = "query" }
give = { text = "loud" }
"""


def topology_of(text: str) -> Topology:
    """Return a topology; keys of a role that are none of its fields are its options."""
    raw = tomllib.loads(text)
    known = {
        "kind",
        "model",
        "nodes",
        "replicas",
        "route",
        "key",
        "lane",
        "batch",
        "queue_max",
        "needs",
    }
    known |= {"layers", "needs"}
    for role in raw.get("roles", {}).values():
        role["options"] = {key: role.pop(key) for key in list(role) if key not in known}
    return msgspec.convert(raw, Topology)


def node_of(name: str, folder: Path, text: str = TOPOLOGY, **parts) -> Node:
    """Return a node that is not yet started."""
    settings = NodeSettings(
        name=name,
        topology=folder / "topology.toml",
        data=folder / name,
        listen=Listen("127.0.0.1:0", "127.0.0.1:0"),
        join=parts.pop("join", Join()),
        compute=parts.pop("compute", Compute()),
        gossip=QUICK,
        limits=parts.pop("limits", Limits(body_bytes_max=1 << 20, deadline_s=5.0, drain_s=2.0)),
        security=parts.pop("security", Security()),
        log=Log(request_lines_s_max=0),
    )
    assert not parts
    return Node(Settings(settings, topology_of(text), text))


@asynccontextmanager
async def running(*nodes: Node):
    """Run nodes until the block ends; each is told the address of the first."""
    tasks = []
    try:
        for node in nodes:
            if node is not nodes[0]:
                seeds = (nodes[0].peer_address,)
                node.settings = msgspec.structs.replace(node.settings, join=Join(seeds=seeds))
            await node.open()
            tasks.append(asyncio.create_task(node.run_opened()))
        yield nodes
    finally:
        for node in nodes:
            node.stop()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def mesh(folder: Path, text: str = TOPOLOGY, count: int = 3, **parts):
    """Run a ready mesh; give its nodes and an HTTP session."""
    nodes = [node_of(f"n{index}", folder, text, **parts) for index in range(count)]
    async with aiohttp.ClientSession() as http, running(*nodes):
        await wait_until(lambda: all(knows(node, count) for node in nodes))
        yield nodes, http


def knows(node: Node, count: int) -> bool:
    """Return whether a node is ready and sees all roles of a mesh of `count`."""
    members = node.membership.members
    loaded = {role for member in members for role in member.facts.roles}
    return not node.why_not_ready() and len(members) >= count and loaded >= set(node.topology.roles)


async def wait_until(is_true, within_s: float = READY_S) -> None:
    """Wait for a condition that other tasks bring about."""
    async with asyncio.timeout(within_s):
        while not is_true():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.005)


def url(node: Node, path: str) -> str:
    """Return the URL of a door of a node."""
    return f"http://{node.http_address}{path}"


async def wait_idle(nodes) -> None:
    """Wait until no node holds anything of any request."""

    def is_idle() -> bool:
        return all(
            node.admission.active == 0
            and node.serving.active == 0
            and all(
                not r.get("queued") and not r.get("running")
                for r in node.local.statistics().values()
            )
            and all(not edge["in_flight"] for edge in node.peers.statistics().values())
            for node in nodes
        )

    await wait_until(is_idle)

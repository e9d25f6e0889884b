"""Writes the files of small meshes to measure, and says how to start their nodes.

Shell: into a folder that the caller owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.servers import PYTHON, free_port

LONE = """
[roles.mlp]
kind  = "bench.models:Mlp"
nodes = ["{owner}"]
lane  = "{lane}"
batch = {{ items_max = 32 }}
"""
CHAIN = """
[pipelines.chain]
input  = ["x"]
output = ["y"]
[[pipelines.chain.stages]]
name = "first"
role = "mlp"
take = {{ x = "x" }}
give = {{ y = "a" }}
[[pipelines.chain.stages]]
name = "second"
role = "mlp"
take = {{ x = "a" }}
give = {{ y = "b" }}
[[pipelines.chain.stages]]
name = "third"
role = "mlp"
take = {{ x = "b" }}
give = {{ y = "y" }}
"""


def write(folder: Path, nodes: Sequence[str], roles: str, http_port: int) -> list[list[str]]:
    """Return the commands that start the nodes; the first one's HTTP door is at `http_port`."""
    folder.mkdir(parents=True, exist_ok=True)
    head = '[mesh]\nname = "bench"\n'
    (folder / "topology.toml").write_text(head + roles)
    peers = [free_port() for _ in nodes]
    seeds = ", ".join(f'"127.0.0.1:{port}"' for port in peers)
    commands = []
    for index, name in enumerate(nodes):
        door = http_port if index == 0 else free_port()
        (folder / f"{name}.toml").write_text(
            f'name = "{name}"\ntopology = "topology.toml"\ndata = "var/{name}"\n'
            f'[listen]\nhttp = "127.0.0.1:{door}"\npeer = "127.0.0.1:{peers[index]}"\n'
            + (f"[join]\nseeds = [{seeds}]\n" if len(nodes) > 1 else "")
        )
        commands.append([PYTHON, "-m", "mesh", "--config", str(folder / f"{name}.toml")])
    return commands


def lone(lane: str, owner: str = "n0") -> str:
    """Return the topology of the one role, on one node."""
    return LONE.format(lane=lane, owner=owner)


def chain(lane: str, owner: str = "n0") -> str:
    """Return the topology of a pipeline that runs the role three times in a row."""
    return lone(lane, owner) + CHAIN.format()

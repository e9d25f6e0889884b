"""Writes a working configuration for a mesh of n nodes.

Shell: writes files. The topology is that of `config/`, its roles dealt anew over
the nodes; each node gets a file of its own.

    python -m tools.init --nodes 3 --out my-mesh
    python -m tools.init --hosts 10.0.0.1,10.0.0.2 --secret --out lab
"""

from __future__ import annotations

import argparse
import re
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mesh.errors import EXIT_SETUP, SetupError
from mesh.settings.load import address_fault, load

EXAMPLES = Path(__file__).resolve().parents[1] / "config"
NODES_MAX = 64  # ports of one machine are counted up from the first; a mesh is a handful

# Which of the nodes does what: the search on one, the language model on the others, as in the
# example. A fraction stands for a place in the list of nodes.
PLACES = {
    "embed": (0.0, 0.0),
    "retrieve": (0.5, 0.5),
    "rerank": (0.5, 0.5),
    "generate": (0.75, 1.0),
    "sentiment": (0.75, 0.75),
    "safety": (0.75, 0.75),
}

_NODE = """\
# Node {name}. Start it with: python -m mesh --config {file}

name     = "{name}"
topology = "topology.toml"    # relative to this file
data     = "var/{name}"       # everything this node writes

[listen]
http = "{http}"
peer = "{peer}"    # TCP and UDP
{advertise}
[join]
seeds = [{seeds}]    # one that answers is enough

[compute]
threads = {threads}
{security}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        files = plan(options)
        written = write(Path(options.out), files, force=options.force)
    except SetupError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return EXIT_SETUP
    for path in written:
        print(f"wrote {path}")
    nodes = [path for path in written if path.name != "topology.toml"]
    print("\nStart each node, in any order:")
    for path in nodes:
        print(f"  python -m mesh --config {path}")
    return 0


def plan(options: argparse.Namespace) -> dict[str, str]:
    """Return the files by name.

    Raises:
        SetupError: options that no mesh can have.
    """
    hosts = [host.strip() for host in options.hosts.split(",")] if options.hosts else []
    count = len(hosts) or options.nodes
    if not 1 <= count <= NODES_MAX:
        raise SetupError(f"--nodes: expected 1 to {NODES_MAX}, found {count}")
    for host in hosts:
        if address_fault(f"{host}:1", may_be_zero=False):
            raise SetupError(f"--hosts: expected names or addresses, found {host!r}")
    names = [f"n{index}" for index in range(count)]
    security = f'\n[security]\nsecret = "{secrets.token_hex(16)}"\n' if options.secret else ""
    doors = [_doors(options, hosts, index) for index in range(count)]
    files = {"topology.toml": topology(options.name, names)}
    for index, name in enumerate(names):
        others = [peer for at, (_, _, peer) in enumerate(doors) if at != index]
        listen = "0.0.0.0" if hosts else "127.0.0.1"  # other machines must reach it
        http, peer = (address.rpartition(":")[2] for address in doors[index][1:])
        advertise = f'\n[advertise]\nhttp = "{doors[index][1]}"\npeer = "{doors[index][2]}"\n'
        files[f"{name}.toml"] = _NODE.format(
            name=name,
            file=Path(options.out) / f"{name}.toml",
            http=f"{listen}:{http}",
            peer=f"{listen}:{peer}",
            advertise=advertise if hosts else "",
            seeds=", ".join(f'"{address}"' for address in others),
            threads=options.threads,
            security=security,
        )
    return files


def topology(mesh_name: str, names: Sequence[str]) -> str:
    """Return the example's topology with its roles dealt over these nodes."""
    text = (EXAMPLES / "topology.toml").read_text(encoding="utf-8")
    text = re.sub(r'(?m)^(name\s*=\s*)"demo"', rf'\g<1>"{mesh_name}"', text, count=1)
    listed = ", ".join(f'"{name}"' for name in names)
    text = re.sub(r"(?m)^nodes = \[.*?\]( +# optional)", rf"nodes = [{listed}]\g<1>", text, count=1)
    for role, (first, last) in PLACES.items():
        top = len(names) - 1
        chosen = names[round(first * top) : round(last * top) + 1]
        nodes = ", ".join(f'"{name}"' for name in chosen)
        section = rf"(?s)(\[roles\.{role}\].*?\nnodes = )\[.*?\]"
        text = re.sub(section, rf"\g<1>[{nodes}]", text, count=1)
    return text


def write(folder: Path, files: dict[str, str], *, force: bool) -> list[Path]:
    """Write the files and check that a node would take them.

    Raises:
        SetupError: a file is there already, cannot be written, or the result cannot work.
    """
    paths = {name: folder / name for name in files}
    there = [str(path) for path in paths.values() if path.exists()]
    if there and not force:
        raise SetupError(*(f"{path} exists; --force overwrites it" for path in there))
    try_out(folder, files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, files)
    except OSError as error:
        raise SetupError(f"--out: {error}") from error
    return list(paths.values())


def try_out(folder: Path, files: dict[str, str]) -> None:
    """Check that a node would take the files, before one of them stands in `folder`.

    Raises:
        SetupError: it would not.
    """
    with tempfile.TemporaryDirectory() as trial:
        _write(Path(trial), files)
        for name in files:
            if name != "topology.toml":
                try:
                    load(Path(trial, name))
                except SetupError as error:
                    problems = (one.replace(trial, str(folder)) for one in error.problems)
                    raise SetupError(*problems) from error


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        if "secret" in text:
            path.chmod(0o600)


def _doors(options: argparse.Namespace, hosts: Sequence[str], index: int) -> tuple[str, str, str]:
    """Return host, HTTP and peer address of a node; on one machine the ports are counted up."""
    if hosts:
        host = hosts[index]
        return host, f"{host}:{options.http_port}", f"{host}:{options.peer_port}"
    host = "127.0.0.1"
    return host, f"{host}:{options.http_port + index}", f"{host}:{options.peer_port + index}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.init",
        description="Write a working configuration for a mesh of n nodes.",
        epilog="example:\n  python -m tools.init --nodes 3 --out my-mesh\n"
        "  python -m tools.init --hosts 10.0.0.1,10.0.0.2,10.0.0.3 --secret --out lab\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=3, help="how many, on this machine (3)")
    parser.add_argument("--hosts", default="", help="machines instead, by comma; one node on each")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--name", default="demo", help="of the mesh (demo)")
    parser.add_argument("--http-port", type=int, default=8000, help="the first (8000)")
    parser.add_argument("--peer-port", type=int, default=7000, help="the first (7000)")
    parser.add_argument("--threads", type=int, default=1, help="each role computes with (1)")
    parser.add_argument(
        "--secret", action="store_true", help="make one: seals traffic between nodes"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Reads `node.toml`, its topology, the environment and the command line into frozen settings.

Shell: touches files. Order of authority: defaults < file < environment
(`MESH__LISTEN__HTTP=…`) < command line (`--set listen.http=…`). Everything that
is wrong is reported at once, as one `SetupError`.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mesh.errors import SetupError
from mesh.settings import toml
from mesh.settings.build import WRONG, build, field_of, is_struct, join
from mesh.settings.crosscheck import Kind, crosscheck
from mesh.settings.report import Report, Source, meant, shown
from mesh.settings.schema import SECRETS, Node
from mesh.settings.topology import Model, Role, Topology

PREFIX = "MESH__"
KindOf = Callable[[str], Kind]


@dataclass(frozen=True, slots=True)
class Settings:
    """All that one process was told.

    `origins` maps dotted keys to where their value came from; a key that is not
    there has its default.
    """

    node: Node
    topology: Topology
    topology_text: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Layers:
    """The node's raw tree with the source of every value laid into it."""

    file: Source
    tree: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def source_of(self, key: str) -> Source:
        return self.sources.get(key, self.file)

    def lay(self, key: str, value: Any, source: Source) -> None:
        *tables, name = key.split(".")
        tree = self.tree
        for table in tables:
            inner = tree.setdefault(table, {})
            if not isinstance(inner, dict):
                return  # the file has a value where a table belongs; that is reported anyway
            tree = inner
        tree[name] = value
        self.sources[key] = source


def load(
    path: Path,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    kind_of: KindOf | None = None,
) -> Settings:
    """Return the settings of one node.

    Args:
        path: `node.toml`.
        environ: variables that start with `MESH__` override fields.
        overrides: "listen.http=…" from the command line.
        kind_of: tells the class of a role's kind and raises `SetupError` where there is
            none; without it roles are not compared with their classes. With it, the folder
            of the topology is on the Python path from then on: such classes may lie there.

    Raises:
        SetupError: with every problem of both files.
    """
    report = Report()
    raw, file = _read(path, report)
    layers = _Layers(file, raw or {})
    _lay_environment(layers, environ or {}, report)
    _lay_overrides(layers, overrides, report)
    if raw is None:
        report.raise_any()  # what else is missing was in that file
    node = build(Node, layers.tree, "", layers.source_of, report)
    if node is not WRONG:
        node = _resolved(node, path, layers)
        _check_addresses(node, layers, report)
    topology_path, own_name = layers.tree.get("topology"), layers.tree.get("name")
    if not isinstance(topology_path, str):
        report.raise_any()
    place = _base(path, layers, "topology") / Path(str(topology_path)).expanduser()
    if kind_of:
        _find_beside(place)
    topology, text, topology_file = _load_topology(place, own_name, kind_of, report)
    report.raise_any()
    origins = {key: layers.source_of(key).name for key, _ in _leaves(layers.tree)}
    raw_topology = toml.read(text)
    origins |= {f"topology.{key}": topology_file.name for key, _ in _leaves(raw_topology)}
    return Settings(node, topology, text, origins)


def load_topology(path: Path, kind_of: KindOf | None = None) -> Topology:
    """Return one topology file, checked on its own.

    Raises:
        SetupError: with every problem of the file.
    """
    report = Report()
    topology, _, _ = _load_topology(path, None, kind_of, report)
    report.raise_any()
    return topology


def parse_topology(
    text: str,
    *,
    source: str,
    folder: Path,
    own_name: str | None = None,
    kind_of: KindOf | None = None,
) -> Topology:
    """Return the topology that a text describes.

    Args:
        text: TOML.
        source: what messages call it.
        folder: what `path:` sources are relative to.
        own_name: the node for which it is checked.
        kind_of: as for `load`.

    Raises:
        SetupError: with every problem of the text.
    """
    report, file = Report(), Source(source, text)
    try:
        raw = toml.read(text)
    except tomllib.TOMLDecodeError as error:
        report.add(Source(source), "", "TOML", f"a mistake: {error}")
        report.raise_any()
    topology = _checked(raw, file, folder, own_name, kind_of, report)
    report.raise_any()
    assert isinstance(topology, Topology)
    return topology


def render(settings: Settings) -> Iterator[str]:
    """Yield one line for each effective value, with its origin; secrets are masked."""
    parts = [("", settings.node), ("topology.", settings.topology)]
    for prefix, tree in parts:
        rows = list(_leaves(msgspec.to_builtins(tree, enc_hook=str)))
        for key, value in rows:
            text = _toml(value) if key not in SECRETS or not value else '"(hidden)"'
            origin = settings.origins.get(prefix + key) or settings.origins.get(
                prefix + key.replace(".options.", "."), "default"
            )
            yield f"{prefix}{key} = {text}  # {origin}"


def _read(path: Path, report: Report) -> tuple[dict[str, Any] | None, Source]:
    source = Source(str(path))
    try:
        text = path.read_text(encoding="utf-8")
        return toml.read(text), Source(str(path), text)
    except FileNotFoundError:
        report.add(source, "", "a TOML file", "no such file", "make one with: python -m tools.init")
    except (OSError, UnicodeDecodeError) as error:
        report.add(source, "", "a readable TOML file", str(error))
    except tomllib.TOMLDecodeError as error:
        report.add(source, "", "TOML", f"a mistake: {error}")
    return None, source


def _lay_environment(layers: _Layers, environ: Mapping[str, str], report: Report) -> None:
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX):
            key = name.removeprefix(PREFIX).replace("__", ".").lower()
            _lay_text(layers, key, text, Source(f"environment {name}"), report)


def _lay_overrides(layers: _Layers, overrides: Sequence[str], report: Report) -> None:
    for override in overrides:
        key, equals, text = override.partition("=")
        source = Source("command line")
        if not equals:
            report.add(source, key, "--set KEY=VALUE", repr(override))
        else:
            _lay_text(layers, key.strip(), text, source, report)


def _lay_text(layers: _Layers, key: str, text: str, source: Source, report: Report) -> None:
    """Lay a value that came as text: strings as they are, others as TOML, lists also by commas."""
    info = field_of(Node, key)
    if info is None or is_struct(info.type):
        known = list(_keys(Node))
        report.add(source, key, "a key of node.toml", "an unknown key", meant(key, known))
        return
    probe = build(info.type, text, key, lambda _: source, Report())
    value: Any = text
    if probe is WRONG:
        try:
            value = toml.read(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            is_list = "tuple" in str(info.type)
            value = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    layers.lay(key, value, source)


def _find_beside(topology: Path) -> None:
    """Let classes that a topology names be found in its folder, after all other places."""
    folder = os.path.abspath(topology.parent)
    if folder not in sys.path:
        sys.path.append(folder)


def _base(path: Path, layers: _Layers, key: str) -> Path:
    """Return the folder that a relative path is relative to: that of the file which names it."""
    return path.parent if layers.source_of(key) is layers.file else Path()


def _resolved(node: Node, path: Path, layers: _Layers) -> Node:
    paths = {
        key: Path(os.path.abspath(_base(path, layers, key) / value.expanduser()))
        for key, value in (("topology", node.topology), ("data", node.data))
    }
    return msgspec.structs.replace(node, **paths)


def _check_addresses(node: Node, layers: _Layers, report: Report) -> None:
    rows = [("listen.http", node.listen.http, True), ("listen.peer", node.listen.peer, True)]
    rows += [("advertise.http", node.advertise.http, False)] if node.advertise.http else []
    rows += [("advertise.peer", node.advertise.peer, False)] if node.advertise.peer else []
    rows += [("join.seeds", seed, False) for seed in node.join.seeds]
    for key, address, may_be_zero in rows:
        fault = address_fault(address, may_be_zero=may_be_zero)
        if fault:
            report.add(layers.source_of(key), key, fault, repr(address))
    if node.listen.http == node.listen.peer and not node.listen.http.endswith(":0"):
        key = "listen.peer"
        report.add(layers.source_of(key), key, "another address than listen.http", "the same")


def address_fault(address: str, *, may_be_zero: bool) -> str:
    """Return what an address should be, or "" if it is "host:port"."""
    host, colon, port = address.rpartition(":")
    least = 0 if may_be_zero else 1
    if not colon or not host or any(char.isspace() or char == "/" for char in host):
        return '"host:port"'
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return '"[address]:port" for IPv6'
    if not (port.isascii() and port.isdigit() and least <= int(port) <= 65535):
        return f'"host:port" with a port from {least} to 65535'
    return ""


def _load_topology(
    path: Path, own_name: str | None, kind_of: KindOf | None, report: Report
) -> tuple[Any, str, Source]:
    raw, source = _read(path, report)
    if raw is None:
        return WRONG, "", source
    return _checked(raw, source, path.parent, own_name, kind_of, report), source.text, source


def _checked(
    raw: dict[str, Any],
    source: Source,
    folder: Path,
    own_name: str | None,
    kind_of: KindOf | None,
    report: Report,
) -> Any:
    """Return the topology in `raw`, or `WRONG`; what does not fit is in the report."""
    topology = build(Topology, raw, "", lambda _: source, report)
    if topology is WRONG:
        return WRONG
    names = topology.mesh.nodes
    if names and own_name is not None and own_name not in names:
        report.add(source, "mesh.nodes", f"{own_name!r}, this node's name, among them", str(names))
    kinds = _kinds(topology, own_name, kind_of, source, report) if kind_of else {}
    crosscheck(topology, kinds, source, report)
    return _with_paths(topology, folder)


def _kinds(
    topology: Topology, own_name: str | None, kind_of: KindOf, source: Source, report: Report
) -> dict[str, Kind]:
    """Return the class of each role's kind.

    A user's class is imported only where it may have to run: other nodes need not
    have it installed.
    """
    kinds: dict[str, Kind] = {}
    for name, role in topology.roles.items():
        if ":" in role.kind and own_name is not None and not may_run(role, own_name):
            continue
        try:
            kinds[name] = kind_of(role.kind)
        except SetupError as error:
            key = f"roles.{name}.kind"
            report.add(source, key, "a kind of role", shown(key, role.kind), str(error))
    return kinds


def may_run(role: Role, node: str) -> bool:
    """Return whether a node may have to run a role: it is named, or the ring might choose it."""
    return node in role.nodes or not role.nodes


def _with_paths(topology: Topology, folder: Path) -> Topology:
    """Return the topology with `path:` sources made absolute, relative to the file."""
    return msgspec.structs.replace(
        topology, models={name: _located(model, folder) for name, model in topology.models.items()}
    )


def _located(model: Model, folder: Path) -> Model:
    if not model.source.startswith("path:"):
        return model
    place = os.path.abspath(folder / Path(model.source.removeprefix("path:")).expanduser())
    return msgspec.structs.replace(model, source=f"path:{place}")


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; lists of tables are numbered."""
    if isinstance(tree, Mapping) and tree:
        pairs: Any = tree.items()
    elif isinstance(tree, list | tuple) and tree and isinstance(tree[0], Mapping):
        pairs = ((str(index), value) for index, value in enumerate(tree))
    else:
        if not isinstance(tree, Mapping):
            yield key, tree
        return
    for name, value in pairs:
        yield from _leaves(value, join(key, name))


def _keys(kind: Any, key: str = "") -> Iterator[str]:
    for info in msgspec.structs.fields(kind):
        place = join(key, info.name)
        if is_struct(info.type):
            yield from _keys(info.type, place)
        else:
            yield place


def _toml(value: Any) -> str:
    return msgspec.json.encode(value).decode()

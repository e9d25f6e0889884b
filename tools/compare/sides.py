"""Which arrangements of one topology are compared, as topologies of their own.

Pure. Each side differs from another in one thing that its name says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
BATCHING_OFF = {"batch.items_max": 1}
SEARCH = ("embed", "retrieve", "rerank")  # kinds of roles
NOT_KEPT = 299  # characters to read of a passage; the index keeps vectors of 300
ENGINE_BATCHING_OFF = {"sequences_max": 1}  # a role that streams forms its own batches


@dataclass(frozen=True, slots=True)
class Side:
    """One arrangement: a topology and the names of its nodes.

    Attributes:
        name: in the table.
        topology: as its file would say it.
        nodes: those that are started.
        pipeline: which is asked, where that is not the plan's.
        times: how many times the plan's requests, where an answer takes little.
        against: the side that it is set in proportion to.
        is_by_lines: whether requests come in JSON lines, on the port for nodes.
    """

    name: str
    topology: Document
    nodes: tuple[str, ...]
    pipeline: str = ""
    times: int = 1
    against: str = "distributed"
    is_by_lines: bool = False


def sides_of(
    topology: Document, nodes: Sequence[str], rows: Sequence[str] = (), sets: Sequence[str] = ()
) -> list[Side]:
    """Return the sides: one node without batching, one with it, all nodes, and the rows asked for.

    Args:
        topology: as its file says it.
        nodes: names of the nodes of the whole mesh, in order.
        rows: "NAME: KEY=VALUE, KEY=VALUE", changes of the whole mesh by dotted key; `*` stands
            for every role, pipeline or model.
        sets: names in `SETS`, of rows that are known beforehand.

    Raises:
        ValueError: a row cannot be read, its key is not there, or there is no such set.
    """
    if unknown := set(sets) - set(SETS):
        raise ValueError(f"no rows {', '.join(unknown)}; there are {', '.join(SETS)}")
    alone = gathered(topology, nodes[0])
    found = [
        Side("monolithic, unbatched", unbatched(alone), (nodes[0],)),
        Side("monolithic", alone, (nodes[0],)),
        Side("distributed", topology, tuple(nodes)),
    ]
    for name in sets:
        found += SETS[name](topology, nodes)
    for row in rows:
        name, separator, changes = row.partition(":")
        if not separator or not name.strip():
            raise ValueError(f"a row is 'NAME: KEY=VALUE', found {row!r}")
        changed = copy.deepcopy(topology)
        for change in changes.split(","):
            key, _, value = change.strip().partition("=")
            put(changed, key.strip(), _value(value.strip()))
        found.append(Side(name.strip(), changed, tuple(nodes)))
    return found


def gathered(topology: Document, node: str) -> Document:
    """Return the topology with every role on one node, and none split over several."""
    alone = copy.deepcopy(topology)
    alone["mesh"].pop("nodes", None)
    for role in alone.get("roles", {}).values():
        role.pop("replicas", None)
        role.pop("layers", None)
        role["nodes"] = [node]
    return alone


def unbatched(topology: Document) -> Document:
    """Return the topology with every item computed alone."""
    plain = copy.deepcopy(topology)
    for role in plain.get("roles", {}).values():
        changes = ENGINE_BATCHING_OFF if role["kind"] == "generate" else BATCHING_OFF
        for key, value in changes.items():
            put(role, key, value)
    return plain


def _batches(topology: Document, nodes: Sequence[str]) -> list[Side]:
    """Batching switched off, and kept small, on all nodes."""
    small = copy.deepcopy(topology)
    for role in small.get("roles", {}).values():
        put(role, "sequences_max" if role["kind"] == "generate" else "batch.items_max", 4)
    return [
        Side("batching off", unbatched(topology), tuple(nodes)),
        Side("batches of 4 at most", small, tuple(nodes)),
    ]


def _kept(topology: Document, nodes: Sequence[str]) -> list[Side]:
    """What is remembered: not prompts' beginnings, not passages' token vectors; answers as well."""
    sides = []
    for name, kind, changes in (
        ("prompts' beginnings not kept", "generate", {"reuse": "none"}),
        ("token vectors not kept", "rerank", {"read_chars_max": NOT_KEPT, "cache_bytes_max": 0}),
        ("answers of roles kept", "", {"cache.items_max": 1000}),
    ):
        changed = copy.deepcopy(topology)
        for role in changed.get("roles", {}).values():
            for key, value in changes.items() if role["kind"] == kind or not kind else ():
                put(role, key, value)
        sides.append(Side(name, changed, tuple(nodes)))
    return sides


def _search(topology: Document, nodes: Sequence[str], rows: str) -> Document:
    """Return the search of a topology alone, as the pipeline "find"."""
    whole = copy.deepcopy(topology)
    roles = {name: one for name, one in whole["roles"].items() if one["kind"] in SEARCH}
    if {role["kind"] for role in roles.values()} != set(SEARCH) or len(nodes) < 2:
        raise ValueError(f"the rows {rows!r} want roles {', '.join(SEARCH)} and two nodes")
    stages = [
        stage
        for pipeline in whole["pipelines"].values()
        for stage in pipeline["stages"]
        if stage["role"] in roles
    ]
    outputs = [name for stage in stages for name in stage["give"].values()]
    find = {"input": ["query"], "output": outputs[-1:], "stages": stages}
    return {**whole, "roles": roles, "pipelines": {"find": find}}


def _hedging(topology: Document, nodes: Sequence[str]) -> list[Side]:
    """A search whose rerankers stand still now and then, with and without a second call."""
    small = _search(topology, nodes, "hedging")
    sides = []
    for name, kind in (("one call only", "HaltingOnce"), ("hedged", "Halting")):
        changed = copy.deepcopy(small)
        for role in changed["roles"].values():
            if role["kind"] == "rerank":
                role |= {"kind": f"tools.compare.halting:{kind}", "nodes": list(nodes)[-2:]}
        title = f"search with stalls, {name}"
        against = "search with stalls, one call only"
        sides.append(Side(title, changed, tuple(nodes), "find", 10, against))
    return sides


def _protocols(topology: Document, nodes: Sequence[str]) -> list[Side]:
    """The same search, asked by HTTP with JSON, and by JSON lines: an answer takes little."""
    small, first = _search(topology, nodes, "protocols"), "search by HTTP"
    return [
        Side(name, small, tuple(nodes), "find", 10, first, is_by_lines=name != first)
        for name in (first, "search by JSON lines")
    ]


SETS: dict[str, Callable[[Document, Sequence[str]], list[Side]]] = {
    "batches": _batches,
    "kept": _kept,
    "hedging": _hedging,
    "protocols": _protocols,
}


def put(document: Document, key: str, value: Any) -> None:
    """Set a value by its dotted key, making tables on the way; `*` is every table there.

    Raises:
        ValueError: the key's first part or a `*` leads nowhere.
    """
    head, _, rest = key.partition(".")
    if not head or (not rest and not isinstance(document, dict)):
        raise ValueError(f"there is no key {key!r}")
    if not rest:
        document[head] = value
        return
    if head == "*":
        tables = [one for one in document.values() if isinstance(one, dict)]
        if not tables:
            raise ValueError(f"there is nothing for '*' in {key!r}")
        for one in tables:
            put(one, rest, value)
        return
    put(document.setdefault(head, {}), rest, value)


def toml(document: Mapping[str, Any]) -> str:
    """Return a document as TOML: one line per key of its tables, deeper tables inline."""
    lines: list[str] = []
    for table, keys in document.items():
        lines.append(f"[{_key(table)}]")
        lines += [f"{_key(key)} = {''.join(_inline(value))}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {''.join(_inline(one))}" for key, one in value.items())
        yield "{" + ", ".join(pairs) + "}"
    elif isinstance(value, list | tuple):
        yield "[" + ", ".join("".join(_inline(one)) for one in value) + "]"
    else:
        yield _text(value)


def _key(name: str) -> str:
    return _text(name)


def _text(value: str | float | bool) -> str:
    """Return a plain value: JSON's are TOML's, but for a sign that JSON need not escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(text: str) -> Any:
    """Read a value as JSON, or take it as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text

"""Which arrangements of one topology are compared, as topologies of their own.

Pure. Each side differs from another in one thing that its name says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
BATCHING_OFF = {"batch.items_max": 1}
ENGINE_BATCHING_OFF = {"sequences_max": 1}  # a role that streams forms its own batches


@dataclass(frozen=True, slots=True)
class Side:
    """One arrangement: a topology and the names of its nodes."""

    name: str
    topology: Document
    nodes: tuple[str, ...]


def sides_of(topology: Document, nodes: Sequence[str], rows: Sequence[str] = ()) -> list[Side]:
    """Return the sides: one node without batching, one with it, all nodes, and the rows asked for.

    Args:
        topology: as its file says it.
        nodes: names of the nodes of the whole mesh, in order.
        rows: "NAME: KEY=VALUE, KEY=VALUE", changes of the whole mesh by dotted key; `*` stands
            for every role, pipeline or model.

    Raises:
        ValueError: a row cannot be read, or its key is not there.
    """
    alone = gathered(topology, nodes[0])
    found = [
        Side("monolithic, unbatched", unbatched(alone), (nodes[0],)),
        Side("monolithic", alone, (nodes[0],)),
        Side("distributed", topology, tuple(nodes)),
    ]
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

"""Joins `tools/limits.toml` with the numbers and reasons that stand in the code.

Shell: reads source files, and imports nothing of them. `tools.reference` makes
docs/limits-and-faults.md of it.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mesh import errors

PROJECT = Path(__file__).resolve().parents[1]
TABLE = PROJECT / "tools" / "limits.toml"
SETTINGS = {
    "mesh/settings/schema.py": "Node",
    "mesh/settings/topology.py": "Topology",
}
REACHED = "mesh_limit_reached_total"
ERRORS = "mesh_http_errors_total"
KEYS = {"key", "does", "error", "metric", "silent", "test", "why"}


@dataclass(frozen=True, slots=True)
class Limit:
    """One row of the page."""

    group: str
    file: str
    name: str
    key: str
    does: str
    error: str
    metric: str
    silent: str
    test: str
    why: str  # where the code says none beside the number


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what happens then, who is told what, what counts it, which test or scene."""

    name: str
    then: str
    error: str
    metric: str
    seen: str


@dataclass(frozen=True, slots=True)
class Number:
    """A constant or field in the code: its value as written, and the comment beside it."""

    text: str
    value: object
    why: str


def limits() -> list[Limit]:
    """Return every limit of the table."""
    found = []
    for group, files in _table()["limits"].items():
        for file, rows in files.items():
            for name, row in rows.items():
                cells = {key: row.get(key, "") for key in KEYS}
                found.append(Limit(group=group, file=file, name=name, **cells))
    return found


def faults() -> list[Fault]:
    """Return every fault of the table."""
    return [Fault(**row) for row in _table()["faults"]]


def not_limits() -> dict[tuple[str, str], str]:
    """Return the numbers that bound nothing, each with the reason why it is none."""
    return {
        (file, name): reason
        for reason, files in _table()["not_limits"].items()
        for file, names in files.items()
        for name in names
    }


def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text())


# ---------------------------------------------------------------------- what the code has


@cache
def numbers(file: str) -> dict[str, Number]:
    """Return the numbers of a module: constants, fields of classes, options of roles."""
    source = (PROJECT / file).read_text()
    lines = source.splitlines()
    found: dict[str, Number] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                found |= _of_field(inner, node.name, lines)
        for name, value, place in _assigned(node):
            if name.lstrip("_").isupper():
                found[name] = Number(ast.unparse(value), _number(value), _comment(lines, place))
    return found


def constants(file: str) -> set[str]:
    """Return the names of a module's numeric constants."""
    return {
        name
        for name, number in numbers(file).items()
        if name.lstrip("_").isupper() and "." not in name and number.value is not None
    }


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr, ast.stmt]]:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, node.value, node
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id, node.value, node
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for one, value in zip(target.elts, node.value.elts, strict=True):
                if isinstance(one, ast.Name):
                    yield one.id, value, node


def _of_field(node: ast.stmt, owner: str, lines: list[str]) -> dict[str, Number]:
    found = {}
    for name, value, _ in _assigned(node):
        found[f"{owner}.{name}"] = Number(ast.unparse(value), _number(value), _comment(lines, node))
        if name == "options" and isinstance(value, ast.Dict):
            for key, option in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant):
                    why = _comment(lines, option)
                    found[f"{owner}.options.{key.value!s}"] = Number(
                        ast.unparse(option), _number(option), why
                    )
    return found


def _number(node: ast.expr) -> object:
    """Return the value of an expression of numbers, None if it is another one."""
    try:
        value = eval(compile(ast.Expression(node), "", "eval"), {"__builtins__": {}})
    except Exception:  # noqa: BLE001 - it names something: no plain number
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _comment(lines: list[str], node: ast.stmt | ast.expr) -> str:
    """Return the comment behind a line, or else the one above it."""
    last = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :]
    if "#" in last:
        return last.partition("#")[2].strip()
    inside = [line for line in lines[node.lineno - 1 : node.end_lineno] if "#" in line]
    if inside:
        return " ".join(line.partition("#")[2].strip() for line in inside)
    above: list[str] = []
    row = node.lineno - 2
    while row >= 0 and lines[row].strip().startswith("#"):
        above.insert(0, lines[row].strip(" #"))
        row -= 1
    return " ".join(above)


# ---------------------------------------------------------------------- the page


def page() -> str:
    """Return docs/limits-and-faults.md."""
    return "\n".join((_HEAD, *_limit_tables(), *_fault_table())) + "\n"


_HEAD = f"""\
# Limits and faults

Everything bounded in a node, and everything that may break under it: what happens then, who is \
told, what counts it. Codes and statuses are those of [errors](errors.md). Requests that ended in \
an error are counted by its code in `{ERRORS}`; other names in the column *counted by*, unless \
they begin with `mesh_`, are values of the label `limit` in `{REACHED}`, and stand in `/stats` \
where the part counts them. *Silent* says why nobody is told. Each row has a test that reaches it; \
`tools/limits.toml` names it.

What is no HTTP is answered with 400, `bad_request` and the parser's reason, and the connection \
is closed; such requests have no line in the log.
"""


def _limit_tables() -> Iterator[str]:
    rows = limits()
    for group in dict.fromkeys(row.group for row in rows):
        yield f"## {group}\n"
        yield "| limit | is | beyond it | told | counted by | why |"
        yield "|---|---|---|---|---|---|"
        for row in rows:
            if row.group == group:
                yield _row_of(row)
        yield ""


def _row_of(row: Limit) -> str:
    number = numbers(row.file)[row.name]
    module = row.file.removeprefix("mesh/").removesuffix(".py").replace("/", ".")
    name = f"`{row.key}`" if row.key else f"`{module}.{row.name}`"
    cells = (
        name,
        shown(row.name, number),
        row.does,
        told(row),
        counted(row),
        row.why or number.why,
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _fault_table() -> Iterator[str]:
    yield "## Faults\n"
    yield "| fault | what happens then | told | counted by | tried in |"
    yield "|---|---|---|---|---|"
    for fault in faults():
        metric = f"`{fault.metric}`" if fault.metric else ""
        yield f"| {fault.name} | {fault.then} | {code_of(fault.error)} | {metric} | {fault.seen} |"


def told(row: Limit) -> str:
    """Return what whoever is beyond a limit is told."""
    return code_of(row.error) if row.error else f"silent: {row.silent}"


def counted(row: Limit) -> str:
    """Return where a limit is counted."""
    if row.metric:
        return f"`{row.metric}`"
    return "" if row.silent else f"`{ERRORS}`"


def code_of(error: str) -> str:
    """Return an error's code and status."""
    if not error:
        return "nobody: nothing is lost"
    kind: type[errors.MeshError] = getattr(errors, error)
    return f"`{kind.code}`" if kind is errors.SetupError else f"`{kind.code}` {kind.status}"


def shown(name: str, number: Number) -> str:
    """Return a number with its unit, as a person reads it."""
    if not isinstance(number.value, int | float):
        return f"`{number.text}`"
    last = name.rpartition(".")[2].upper()
    words = last.split("_")
    value = number.value
    if "MB" in words:
        return f"{value:g} MB"
    if "BYTES" in words:
        return _bytes(int(value))
    if "MS" in words:
        return _seconds(value / 1000.0)
    if "LINES" in words or "PER" in words:
        return f"{value:g} per s"
    if "S" in words:
        return _seconds(value)
    if "SHARE" in words:
        return f"{value:.0%}"
    if "CHARS" in words:
        return f"{value:,} characters"
    return f"{value:,}"


def _bytes(value: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value >= 1 << shift and value % (1 << shift) == 0:
            return f"{value >> shift} {unit}"
    return f"{value:,} bytes"


def _seconds(value: float) -> str:
    for size, unit in ((365 * 86400.0, "years"), (86400.0, "days"), (3600.0, "h")):
        if value >= size and value % size == 0:
            return f"{value / size:g} {unit}"
    return f"{value:g} s" if value >= 1.0 or value == 0.0 else f"{value * 1000.0:g} ms"

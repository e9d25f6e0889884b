"""Writes the reference pages of `docs/` from the code, so that they cannot lie.

Shell: reads source files, writes Markdown. A test runs it with `--check`.

    python -m tools.reference
    python -m tools.reference --check
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mesh import errors
from tools import catalogue

PROJECT = Path(__file__).resolve().parents[1]
DOCS = PROJECT / "docs"
MADE = "<!-- Made from the code by: python -m tools.reference -->\n\n"
SCHEMAS = (
    ("node.toml", "mesh/settings/schema.py", "Node"),
    ("topology.toml", "mesh/settings/topology.py", "Topology"),
)


Classes = dict[str, ast.ClassDef]
Aliases = dict[str, ast.expr]
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True, slots=True)
class Group:
    """One table of settings: where it stands, what it is for, and a row for each key."""

    key: str
    text: str
    rows: list[str]


def main() -> int:
    """Write the pages, or say which are out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.reference",
        description="Write docs/ pages that follow from the code.",
        epilog="example: python -m tools.reference --check",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page is stale")
    is_check = parser.parse_args().check
    stale = [name for name, text in pages().items() if _old(name) != text]
    for name in stale:
        if not is_check:
            (DOCS / name).write_text(pages()[name])
        print(f"docs/{name} {'is out of date' if is_check else 'written'}")
    return int(is_check and bool(stale))


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    made = {
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "routes.md": routes_page(),
        "errors.md": errors_page(),
        "tools.md": tools_page(),
        "limits-and-faults.md": catalogue.page(),
    }
    return {name: MADE + text for name, text in made.items()}


def settings_page() -> str:
    """Return every key of both files, with type, default and reason."""
    parts = [
        "# Settings\n\nOrder: default, then file, then environment "
        "(`MESH__LISTEN__HTTP=…`), then command line (`--set listen.http=…`).\n"
        "`python -m mesh --config FILE --show` prints each effective value with its origin, "
        "`--check` only checks: the files, and whether the models are on the machine.\n"
    ]
    for title, path, root in SCHEMAS:
        parts.append(f"## {title}\n")
        for group in groups_of(PROJECT / path, root):
            name = f"### {group.key}\n\n" if group.key else ""
            head = "| key | type | default | meaning |\n|---|---|---|---|\n"
            parts.append(f"{name}{group.text}\n\n{head}" + "\n".join(group.rows) + "\n")
    return "\n".join(parts)


def groups_of(path: Path, root: str) -> list[Group]:
    """Return the settings below one class of a schema file, a group for each class."""
    source = path.read_text()
    body = ast.parse(source).body
    classes = {one.name: one for one in body if isinstance(one, ast.ClassDef)}
    aliases = {
        target.id: one.value
        for one in body
        if isinstance(one, ast.Assign)
        for target in one.targets
        if isinstance(target, ast.Name)
    }
    return list(_walk(classes, aliases, source.splitlines(), root, ""))


def _walk(
    classes: Classes, aliases: Aliases, lines: list[str], name: str, prefix: str
) -> Iterator[Group]:
    rows: list[str] = []
    inner: list[tuple[str, str]] = []
    for node in classes[name].body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        kind, key = ast.unparse(node.annotation), node.target.id
        below = next((one for one in classes if one in _names(node.annotation)), None)
        if below is not None:
            inner.append((below, prefix + key + _many(kind)))
            continue
        cells = (f"`{key}`", _type(node.annotation, aliases), _default(node.value))
        rows.append("| " + " | ".join((*cells, _comment(lines, node))) + " |")
    document = " ".join((ast.get_docstring(classes[name]) or "").split())
    if rows:
        yield Group(prefix.rstrip("."), document, rows)
    for below, key in inner:
        yield from _walk(classes, aliases, lines, below, f"{key}.")


def _many(kind: str) -> str:
    """Return what stands behind the key of a table that there are many of."""
    return ".NAME" if kind.startswith("dict") else "[]" if "[" in kind else ""


def _type(node: ast.expr, aliases: Aliases) -> str:
    """Return a type for people: `Annotated[int, Meta(ge=0)]` is "int ≥ 0"."""
    if isinstance(node, ast.Name) and node.id in aliases:
        return _type(aliases[node.id], aliases)
    if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)):
        return f"`{ast.unparse(node)}`".replace("|", r"\|")
    if node.value.id == "Literal" and isinstance(node.slice, ast.Tuple):
        return " or ".join(f"`{ast.unparse(one)}`" for one in node.slice.elts)
    if node.value.id == "Annotated" and isinstance(node.slice, ast.Tuple):
        kind, *metas = node.slice.elts
        bounds = [
            f" {BOUNDS[word.arg]} {ast.unparse(word.value)}"
            for meta in metas
            if isinstance(meta, ast.Call)
            for word in meta.keywords
            if word.arg in BOUNDS
        ]
        return _type(kind, aliases) + "".join(bounds)
    return f"`{ast.unparse(node)}`".replace("|", r"\|")


def _names(node: ast.expr) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _default(node: ast.expr | None) -> str:
    if node is None:
        return "required"
    text = ast.unparse(node)
    return "`{}`" if text.startswith("field(") else "`" + text.replace("|", r"\|") + "`"


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    """Return the comment above a field and behind it."""
    above: list[str] = []
    row = node.lineno - 2
    while lines[row].strip().startswith("#"):
        above.insert(0, lines[row].strip(" #"))
        row -= 1
    last = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :]
    behind = [last.strip(" #")] if last.strip().startswith("#") else []
    return " ".join(above + behind).replace("|", r"\|")


def metrics_page() -> str:
    """Return every metric that the code declares."""
    found = {name: (text, labels) for name, text, labels in metrics()}
    rows = [
        f"| `{name}` | {', '.join(f'`{one}`' for one in labels) or 'none'} | {text} |"
        for name, (text, labels) in sorted(found.items())
    ]
    head = "# Metrics\n\n`GET /metrics`, in Prometheus' text format. Times are in seconds.\n\n"
    return head + "| name | labels | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def metrics() -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, help and labels of each metric: calls whose first two arguments are both text."""
    for path in sorted(PROJECT.glob("mesh/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            first, text = node.args[0], node.args[1]
            if not (isinstance(first, ast.Constant) and isinstance(text, ast.Constant)):
                continue
            if isinstance(first.value, str) and first.value.startswith("mesh_"):
                labels = node.args[2] if len(node.args) > 2 else None
                is_total = ast.unparse(node.func).split(".")[-1] in ("add_counter", "total")
                suffix = "_total" if is_total and not first.value.endswith("_total") else ""
                names = labels.elts if isinstance(labels, ast.Tuple) else []
                yield (
                    first.value + suffix,
                    str(text.value),
                    [str(one.value) for one in names if isinstance(one, ast.Constant)],
                )


def routes_page() -> str:
    """Return every route with the first line of its handler."""
    rows = [f"| `{method}` | `{path}` | {text} |" for method, path, text in sorted(routes())]
    head = (
        "# Routes\n\nEvery node serves all of them. `GET /docs` and `GET /openapi.json` of a "
        "node describe bodies and answers of its own pipelines.\n\n"
    )
    return head + "| method | path | what |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def routes() -> Iterator[tuple[str, str, str]]:
    """Yield method, path and meaning of each route of the modules in `mesh/api`."""
    for path in sorted(PROJECT.glob("mesh/api/*.py")):
        module = importlib.import_module(f"mesh.api.{path.stem}")
        for one in getattr(module, "routes", list)():
            text = (inspect.getdoc(one.handler) or "A page of the console.").splitlines()[0]
            yield one.method, one.path, text


def errors_page() -> str:
    """Return the tree of errors with code, status and whether to retry."""
    rows = [
        f"| {'&nbsp;' * 4 * depth}`{kind.__name__}` | `{kind.code}` | {kind.status} "
        f"| {kind.retry.value} | {(kind.__doc__ or '').splitlines()[0]} |"
        for depth, kind in _tree(errors.MeshError, 0)
    ]
    head = (
        '# Errors\n\nAn error\'s body is `{"error": {"code", "message", "request_id"}}`, '
        "except where a contract fixes another shape. *Retry* says what the mesh itself does "
        "with a request that met the error, and what a client may do. A process that cannot "
        f"start ends with exit code {errors.EXIT_SETUP}.\n\n"
    )
    table = "| error | code | HTTP | retry | meaning |\n|---|---|---|---|---|\n"
    return head + table + "\n".join(rows) + "\n"


def _tree(kind: type[errors.MeshError], depth: int) -> Iterator[tuple[int, type[errors.MeshError]]]:
    yield depth, kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child, depth + 1)


def tools_page() -> str:
    """Return every program of `tools/` with its first line and its examples."""
    parts = ["# Tools\n\nEach is run as `python -m tools.NAME` and has `--help`.\n"]
    for name, path in programs().items():
        document = ast.get_docstring(ast.parse(path.read_text())) or ""
        first, *rest = document.split("\n\n")
        examples = [block for block in rest if block.startswith("    ")]
        code = "".join(f"\n```\n{inspect.cleandoc(block)}\n```\n" for block in examples)
        parts.append(f"## {name}\n\n{' '.join(first.split())}\n{code}")
    return "\n".join(parts)


def programs() -> dict[str, Path]:
    """Return the programs of `tools/` by name: files and packages that can be run."""
    files = {path.stem: path for path in PROJECT.glob("tools/*.py")}
    files |= {path.parent.name: path for path in PROJECT.glob("tools/*/__main__.py")}
    return {name: path for name, path in sorted(files.items()) if '"__main__"' in path.read_text()}


def _old(name: str) -> str:
    path = DOCS / name
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())

"""Imports point down only, and what decides touches no world."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

# A file may import a lower rank or its own package. Longest prefix wins.
RANKS = {
    "mesh.errors": 0,
    "mesh.machine": 0,
    "mesh.gossip": 1,
    "mesh.ring": 1,
    "mesh.wire": 1,
    "mesh.policy": 1,
    "mesh.observe": 1,
    "mesh.models": 1,
    "mesh.index": 1,
    "mesh.driver": 1,
    "mesh.settings": 2,
    "mesh.llm": 2,
    "mesh.train": 2,
    "mesh.net": 3,
    "mesh.roles": 3,
    "mesh.client": 3,
    "mesh.flow": 4,
    "mesh.api": 5,
    "mesh.node": 6,
    "mesh.__main__": 7,
    "mesh": 7,  # mesh/__init__.py: it re-exports, and nothing in the house imports it
    "tools": 8,
}
# Pairs of equal rank that may see each other, each with the reason.
BESIDE = {
    ("mesh.index", "mesh.models"): "an index is searched with the vectors that an encoder makes",
}
PURE = ("mesh.errors", "mesh.machine", "mesh.gossip", "mesh.ring", "mesh.wire", "mesh.policy")
ARITHMETIC = ("mesh.models", "mesh.index")
WORLD = {"asyncio", "socket", "selectors", "ssl", "time", "logging", "threading", "subprocess"}
WORLD |= {"concurrent", "multiprocessing", "datetime", "aiohttp", "uvloop", "requests", "os"}
LOOP = {"asyncio", "socket", "selectors", "aiohttp", "uvloop"}

FILES = sorted([*PROJECT.glob("mesh/**/*.py"), *PROJECT.glob("tools/**/*.py")])


def module_of(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def home_of(module: str) -> str:
    """Return the entry of `RANKS` that a module belongs to."""
    return max((home for home in RANKS if f"{module}.".startswith(f"{home}.")), key=len)


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything imported, at any depth of the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_imports_point_down(path):
    """A file imports a lower rank or its own package."""
    home = home_of(module_of(path))
    wrong = []
    for line, name in imports_of(ast.parse(path.read_text())):
        if not is_in(name, ("mesh", "tools")):
            continue
        other = home_of(name)
        if other != home and (home, other) not in BESIDE and RANKS[other] >= RANKS[home]:
            wrong.append(f"{path.relative_to(PROJECT)}:{line} imports {name}")
    assert [] == wrong


@pytest.mark.parametrize(
    "path", [path for path in FILES if is_in(module_of(path), PURE)], ids=module_of
)
def test_pure_parts_touch_no_world(path):
    """What decides has no clock, socket, log, thread or global chance."""
    tree = ast.parse(path.read_text())
    wrong = [
        f"line {line}: {name}"
        for line, name in imports_of(tree)
        if name.split(".")[0] in WORLD or (is_in(name, ("mesh",)) and not is_in(name, PURE))
    ]
    wrong += [
        f"line {node.lineno}: random.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "random"
        and node.attr != "Random"
    ]
    wrong += [
        f"line {node.lineno}: async def {node.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef)
    ]
    assert [] == wrong


@pytest.mark.parametrize(
    "path", [path for path in FILES if is_in(module_of(path), ARITHMETIC)], ids=module_of
)
def test_arithmetic_knows_no_loop(path):
    """Models and indexes compute; whoever calls them decides on which thread."""
    wrong = [
        f"line {line}: {name}"
        for line, name in imports_of(ast.parse(path.read_text()))
        if name.split(".")[0] in LOOP
    ]
    assert [] == wrong


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_import_hides_from_the_rule(path):
    """No `TYPE_CHECKING` block, no `import_module` of the mesh's own parts by a literal name."""
    text = path.read_text()
    assert "TYPE_CHECKING" not in text
    assert 'import_module("mesh' not in text

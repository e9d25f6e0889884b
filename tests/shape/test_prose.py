"""Every file says what it is for, and nothing of what it must not say."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
CODE = sorted([*PROJECT.glob("mesh/**/*.py"), *PROJECT.glob("tools/**/*.py")])
TESTS = sorted(PROJECT.glob("tests/**/*.py"))
PACKAGE_DOC = "An empty package file says nothing."

# Joined here so that this file does not find itself.
FORBIDDEN = re.compile(
    "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/"])
)


def tracked_texts() -> list[Path]:
    """Return the text files that git tracks, or all of them where there is no git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True
        ).stdout.decode()
        paths = [PROJECT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [*CODE, *TESTS]
    suffixes = {".py", ".md", ".toml", ".txt", ".html", ".js", ".css", ".yaml", ".yml", ""}
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(PROJECT)))
def test_module_says_what_it_does(path):
    """A module's first line is one sentence."""
    text = path.read_text()
    if path.name == "__init__.py" and not text.strip():
        return
    document = ast.get_docstring(ast.parse(text))
    assert document, "no module docstring"
    assert document.splitlines()[0].rstrip().endswith((".", ":", "?")), "first line is no sentence"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_test_module_says_which_law_it_checks(path):
    """A test module has a docstring, and so has each property in it."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            ast.unparse(one).startswith("given(") for one in node.decorator_list
        ):
            assert ast.get_docstring(node), f"property {node.name} has no docstring"


def test_nothing_unfinished_or_private_is_tracked():
    """No note to oneself, and no path of somebody's machine."""
    found = [
        f"{path.relative_to(PROJECT)}: {match.group()}"
        for path in tracked_texts()
        if path.name not in ("LICENSE", "test_prose.py")
        for match in [FORBIDDEN.search(path.read_text(errors="replace"))]
        if match
    ]
    assert [] == found

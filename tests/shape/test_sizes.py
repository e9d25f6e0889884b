"""Files and functions stay small enough to hold in the head."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

import pytest

PROJECT = Path(__file__).resolve().parents[2]
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
MEDIAN_LINES_MAX = 12

# Longer than the rule, each with its reason. An entry that is no longer needed fails the test.
LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}

FILES = sorted([*PROJECT.glob("mesh/**/*.py"), *PROJECT.glob("tools/**/*.py")])
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "service"}


def functions_of(path: Path) -> list[tuple[str, int]]:
    """Return name and length of each function, its docstring not counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node):
                doc = node.body[0]
                lines -= (doc.end_lineno or doc.lineno) - doc.lineno + 1
            found.append((f"{path.relative_to(PROJECT)}:{node.name}", lines))
    return found


FUNCTIONS = [one for path in FILES for one in functions_of(path)]


def test_files_stay_under_the_limit():
    """A file past the limit has a second reason to exist."""
    long = {str(path.relative_to(PROJECT)): len(path.read_text().splitlines()) for path in FILES}
    long = {name: lines for name, lines in long.items() if lines > FILE_LINES_MAX}
    assert LONG_FILES.keys() == long.keys(), long


def test_functions_stay_under_the_limit():
    """A function past the limit does two things."""
    long = {name: lines for name, lines in FUNCTIONS if lines > FUNCTION_LINES_MAX}
    assert LONG_FUNCTIONS.keys() == long.keys(), long


def test_the_usual_function_is_short():
    """The median says how the code reads, whatever its longest function."""
    assert median(lines for _, lines in FUNCTIONS) <= MEDIAN_LINES_MAX


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_names_say_something(path):
    """No drawer for everything."""
    assert not BANNED_NAMES & {path.stem, *path.relative_to(PROJECT).parts}

"""The pages that follow from the code are up to date, and leave nothing out."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import reference

PROJECT = Path(__file__).resolve().parents[2]
PAGES = reference.pages()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_says(name):
    """If this fails: python -m tools.reference, and read what changed."""
    assert PAGES[name] == (PROJECT / "docs" / name).read_text()


def test_every_setting_has_a_meaning():
    """A key whose name and table say it all needs no comment; a table always does."""
    for _, path, root in reference.SCHEMAS:
        groups = reference.groups_of(PROJECT / path, root)
        assert len(groups) >= 4
        assert [] == [group.key for group in groups if not group.text]


def test_every_metric_has_a_help_text_and_a_unit():
    """Names end in what they count."""
    units = ("_seconds", "_bytes", "_total", "_ratio", "_items", "_nodes", "_active", "_info")
    found = list(reference.metrics())
    assert len(found) >= 10
    for name, text, _ in found:
        assert text.endswith("."), name
        assert name.endswith(units), name


def test_every_route_is_listed_once():
    found = [(method, path) for method, path, _ in reference.routes()]
    assert len(found) == len(set(found)) >= 15
    assert ("POST", "/v1/pipelines/{name}") in found


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.programs())
def test_every_program_has_help_with_an_example(name):
    """`--help` works without a mesh, says what it does and shows a command."""
    done = subprocess.run(
        [sys.executable, "-m", f"tools.{name}", "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"examples?:", done.stdout)
    assert f"-m tools.{name}" in done.stdout


def test_lock_pins_every_requirement():
    """Each package that pyproject names is pinned, and nothing is pinned to a local build."""
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and line[0] != "#")
    assert not any("+" in version for version in pins.values())
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    names = {re.split(r"[<>=!~\[ ]", one)[0].lower().replace("_", "-") for one in wanted}
    assert set() == names - pins.keys()
    assert "2.13.0" == pins["torch"]

"""What the README and the pages tell a newcomer to do can be done."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from mesh.roles.base import Context

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text()
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(PROJECT.glob("docs/**/*.md"))]
SCREEN_LINES = 140  # two screens of a large terminal, and a little


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_is_two_screens():
    assert len(README.splitlines()) <= SCREEN_LINES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(path):
    """A relative link names a file that is there."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert [] == [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_named_commands_exist(path):
    """Every `make TARGET` and `python -m tools.NAME` that a page names."""
    text = path.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ +)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for name in re.findall(r"python -m tools\.([a-z_]+)", text):
        assert (PROJECT / "tools" / f"{name}.py").exists() or (
            PROJECT / "tools" / name / "__main__.py"
        ).exists(), name


def numbers():
    """Return the commands of the README's table of figures."""
    section = README.partition("\n## Numbers\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return [row[-1] for row in rows[2:]]


@pytest.mark.parametrize("command", numbers())
def test_every_figure_has_a_command_that_can_be_run(command):
    """A make target, or a module with the options that are named; or the row before."""
    if command == "the same run":
        return
    assert re.fullmatch(r"`[^`]+`", command), command
    words = command.strip("`").split()
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (PROJECT / "Makefile").read_text(), re.MULTILINE)
        return
    assert ["python", "-m"] == words[:2]
    path = PROJECT / words[2].replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    code = file.read_text()
    for option in (word for word in words[3:] if word.startswith("--")):
        assert option in code, f"{words[2]} has no {option}"


def test_the_first_figure_names_a_command():
    assert "the same run" != numbers()[0]


def test_configuration_files_that_it_names_exist():
    for name in re.findall(r"config/[a-z0-9_/]+\.toml", README):
        assert (PROJECT / name).exists(), name


def test_the_role_of_the_readme_runs(tmp_path, monkeypatch):
    """The twelve lines under "Add a role" are a role, and the topology beside it names it."""
    (python,), (toml,) = blocks("python"), blocks("toml")
    (tmp_path / "shout.py").write_text(python)
    monkeypatch.syspath_prepend(str(tmp_path))
    topology = tomllib.loads(toml)
    module, name = topology["roles"]["shout"]["kind"].split(":")
    role = getattr(__import__(module), name)(Context(role="shout"))
    try:
        assert [{"text": "HELLO"}] == role.run([{"text": "hello"}])
    finally:
        sys.modules.pop(module, None)
    stage = topology["pipelines"]["loud"]["stages"][0]
    assert set(stage["take"]) == set(role.takes)
    assert set(stage["give"]) == set(role.gives)


def test_the_topology_of_the_readme_is_valid(tmp_path, monkeypatch):
    """`--check` finds nothing wrong with it."""
    from mesh.roles import custom
    from mesh.settings.load import load

    (python,), (toml,) = blocks("python"), blocks("toml")
    (tmp_path / "shout.py").write_text(python)
    (tmp_path / "topology.toml").write_text(toml)
    (tmp_path / "n0.toml").write_text('name = "n0"\ntopology = "topology.toml"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        settings = load(tmp_path / "n0.toml", environ={}, overrides=[], kind_of=custom.find)
    finally:
        sys.modules.pop("shout", None)
    assert "mine" == settings.topology.mesh.name

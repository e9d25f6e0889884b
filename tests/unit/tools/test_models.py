"""The command fetches what a topology names, and says what is missing."""

from __future__ import annotations

import pytest

from mesh.errors import EXIT_SETUP
from tools import models


@pytest.fixture
def topology(tmp_path, monkeypatch):
    monkeypatch.setenv("MESH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").write_bytes(b"weights")
    path = tmp_path / "topology.toml"
    path.write_text(f'[mesh]\nname = "x"\n[models.one]\nsource = "path:{tmp_path}/weights"\n')
    return path


def test_a_topologys_models_are_fetched_and_listed(topology, capsys):
    assert models.main(["fetch", "--topology", str(topology)]) == 0
    assert models.main(["list", "--topology", str(topology)]) == 0
    said = capsys.readouterr()
    assert (said.out.count("weights"), said.err) == (4, "")
    assert models.main(["list"]) == 0


def test_a_missing_model_is_said_in_the_exit_code(topology, capsys):
    topology.write_text('[models.two]\nsource = "hf:org/name"\n')
    assert models.main(["list", "--topology", str(topology)]) == 1
    assert "not here" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["fetch"], ["fetch", "path:/a", "path:/b", "--sha256", "0"], ["fetch", "nonsense"]],
)
def test_bad_requests_end_with_the_setup_code(topology, arguments):
    assert models.main(arguments) == EXIT_SETUP
    assert models.main(["fetch", "--topology", str(topology) + "x"]) == EXIT_SETUP

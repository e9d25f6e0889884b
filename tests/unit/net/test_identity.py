"""Who a node is survives its restarts, whatever its clock says."""

from __future__ import annotations

from random import Random

import pytest

from mesh.errors import SetupError
from mesh.net.identity import KNOWN_MAX, Hold, Identity, load_identity, save_known


def test_without_a_file_every_run_is_somebody_new():
    rng = Random(1)
    first, second = load_identity(None, rng, 5), load_identity(None, rng, 5)
    assert first.id != second.id
    assert 16 == len(first.id)


def test_a_restart_keeps_the_id_and_raises_the_boot(tmp_path):
    path = tmp_path / "deep" / "identity.json"
    boots = [load_identity(path, Random(seed), now_ms) for seed, now_ms in enumerate((50, 70, 9))]
    assert 1 == len({one.id for one in boots})
    assert [50, 70, 71] == [one.boot for one in boots]  # the last with a clock set back


def test_known_peers_come_back(tmp_path):
    path = tmp_path / "identity.json"
    identity = load_identity(path, Random(1), 1)
    assert save_known(path, identity, tuple(f"h{at}:1" for at in range(100)))
    again = load_identity(path, Random(1), 2)
    assert KNOWN_MAX == len(again.known)
    assert "h0:1" == again.known[0]


@pytest.mark.parametrize("content", [b"", b"{", b'{"id": 3}', b'{"id": "x"}'])
def test_an_unreadable_file_is_reported(tmp_path, content):
    path = tmp_path / "identity.json"
    path.write_bytes(content)
    with pytest.raises(SetupError, match="no readable identity"):
        load_identity(path, Random(1), 1)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"identity\.json"):
        load_identity(tmp_path / "file" / "identity.json", Random(1), 1)
    assert not save_known(tmp_path / "file" / "identity.json", Identity("x", 1), ())


def test_a_folder_is_one_nodes_at_a_time(tmp_path):
    first = Hold(tmp_path)
    with pytest.raises(SetupError, match="folder of another process"):
        Hold(tmp_path)
    first.close()
    first.close()
    Hold(tmp_path).close()

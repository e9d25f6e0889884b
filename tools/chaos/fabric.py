"""A network of its own for each host, with a switch in this process that can fail like a real one.

Shell: TAP devices and anonymous network namespaces of Linux. The switch reads every
frame, so loss, delay, reordering and cuts need neither iptables nor netem, and TCP meets
them as it does outside. Nothing has a name or a mount: when this process ends, however
it ends, the kernel removes all of it.

    host 0 [namespace]--tap--.
    host 1 [namespace]--tap--+--switch (here)--tap--client [this process's namespace]
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000
PR_SET_PDEATHSIG = 1
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
NET = "10.201.0"
CLIENT = 200  # last number of the client's address
MOVED = 100  # added to a host's number for its second address
FRAME_BYTES_MAX = 65_536
BURST_MAX = 64  # frames read in one go, so that one host cannot starve the others
IP_S_MAX = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


class NoFabric(Exception):
    """This machine does not allow it; the text says what."""


@dataclass(frozen=True, slots=True)
class Line:
    """How one direction between two hosts behaves."""

    is_cut: bool = False
    loss_share: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0  # each frame is late by delay ± jitter, so that frames overtake


PLAIN = Line()


@dataclass
class Fabric:
    """The switch and its hosts."""

    count: int
    rng: Random
    lines: dict[tuple[int, int], Line] = field(default_factory=dict)
    dropped: int = 0
    _taps: dict[int, int] = field(default_factory=dict)
    _holders: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def open(cls, count: int, rng: Random) -> Fabric:
        """Leave the machine's network and build one with `count` hosts.

        Raises:
            NoFabric: that is not allowed here.
        """
        if _libc.unshare(CLONE_NEWNET | CLONE_NEWNS):
            raise NoFabric(f"unshare: {os.strerror(ctypes.get_errno())}")
        fabric = cls(count, rng)
        try:
            _run("mount", "--make-rprivate", "/")
            _ip("link", "set", "lo", "up")
            for number in (*range(count), CLIENT):
                fabric._plug(number)
        except (OSError, subprocess.SubprocessError) as error:
            fabric.close()
            raise NoFabric(str(error)) from error
        loop = asyncio.get_running_loop()
        for number, tap in fabric._taps.items():
            loop.add_reader(tap, fabric._on_readable, number, tap)
        return fabric

    def address(self, number: int, *, is_moved: bool = False) -> str:
        """Return a host's IP address."""
        return f"{NET}.{number + 1 + (MOVED if is_moved else 0)}"

    def enter(self, number: int) -> Callable[[], None]:
        """Return what a child process calls to be in a host, and to end with this process."""
        path = f"/proc/{self._holders[number].pid}/ns/net"

        def enter() -> None:
            space = os.open(path, os.O_RDONLY)
            if _libc.setns(space, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            os.close(space)
            die_with_parent()

        return enter

    def set(self, source: int, target: int, line: Line) -> None:
        """Let one direction between two hosts behave so."""
        self.lines[source, target] = line

    def heal(self) -> None:
        """Let every line be plain again."""
        self.lines.clear()

    def close(self) -> None:
        """Remove everything."""
        for tap in self._taps.values():
            try:
                asyncio.get_running_loop().remove_reader(tap)
            finally:
                os.close(tap)
        self._taps.clear()
        for holder in self._holders:
            holder.kill()
            holder.wait()
        self._holders.clear()

    def _plug(self, number: int) -> None:
        """Make one host's device, and move it into a namespace unless it is the client's."""
        name = f"mesh{number}"
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._taps[number] = tap
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
        enter: Callable[[], None] | None = None
        if number != CLIENT:
            holder = subprocess.Popen(
                ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=_leave_network
            )
            self._holders.append(holder)
            _ip("link", "set", name, "netns", str(holder.pid))
            enter = self.enter(number)
            _ip("link", "set", "lo", "up", enter=enter)
        _ip("link", "set", name, "address", _mac(number), "up", enter=enter)
        for address in _addresses(number):
            _ip("address", "add", f"{address}/24", "dev", name, enter=enter)
        # Known neighbours: a cut line must not look like a host that was never there.
        for other in (*range(self.count), CLIENT):
            for address in _addresses(other) if other != number else ():
                what = ("lladdr", _mac(other), "dev", name, "nud", "permanent")
                _ip("neighbour", "replace", address, *what, enter=enter)

    def _on_readable(self, source: int, tap: int) -> None:
        for _ in range(BURST_MAX):
            try:
                frame = os.read(tap, FRAME_BYTES_MAX)
            except OSError:
                return  # nothing more for now
            target = _host_of(frame)
            if target in self._taps and target != source:
                self._forward(source, target, frame)

    def _forward(self, source: int, target: int, frame: bytes) -> None:
        line = self.lines.get((source, target), PLAIN)
        if line.is_cut or (line.loss_share and self.rng.random() < line.loss_share):
            self.dropped += 1
        elif line.delay_s:
            late_s = line.delay_s + line.jitter_s * self.rng.uniform(-1.0, 1.0)
            asyncio.get_running_loop().call_later(late_s, self._write, target, frame)
        else:
            self._write(target, frame)

    def _write(self, target: int, frame: bytes) -> None:
        tap = self._taps.get(target)
        if tap is not None:
            try:
                os.write(tap, frame)
            except OSError:
                self.dropped += 1  # a full queue drops, as a switch does


def die_with_parent() -> None:
    """In a child: end when this process ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def fill_disk(folder: Path, size_kb: int = 256) -> None:
    """Lay a small file system over a folder, with what is in it, and fill it up."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    _run("mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(folder))
    for name, data in kept.items():
        (folder / name).write_bytes(data[: size_kb * 256])
    with (folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 4096)


def free_disk(folder: Path) -> None:
    """Make room again; the small file system stays until `drop_disk`."""
    (folder / "filler").unlink()


def drop_disk(folder: Path) -> None:
    """Take the small file system away, if there is one: the folder under it can go then."""
    if folder.is_mount():
        _run("umount", "--lazy", str(folder))


def _leave_network() -> None:
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    die_with_parent()


def _mac(number: int) -> str:
    return f"02:00:00:00:01:{number:02x}"


def _host_of(frame: bytes) -> int:
    return frame[5] if frame[:5] == b"\x02\x00\x00\x00\x01" else -1


def _addresses(number: int) -> list[str]:
    if number == CLIENT:
        return [f"{NET}.{CLIENT}"]
    return [f"{NET}.{number + 1}", f"{NET}.{number + 1 + MOVED}"]


def _ip(*words: str, enter: Callable[[], None] | None = None) -> None:
    _run("ip", *words, enter=enter)


def _run(*words: str, enter: Callable[[], None] | None = None) -> None:
    done = subprocess.run(
        words, preexec_fn=enter, capture_output=True, text=True, timeout=IP_S_MAX, check=False
    )
    if done.returncode:
        raise subprocess.SubprocessError(f"{' '.join(words)}: {done.stderr.strip()}")

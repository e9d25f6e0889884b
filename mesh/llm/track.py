"""Carries the frames of a split model from one computing thread to the next.

Shell: one connection, blocking reads. What the system takes at once is written by the
thread that computed it; the rest of a long prompt's frame by a thread that has nothing else
to do, so that computing goes on. How much waits is bounded by the steps that the head lets
be under way.

    header bytes u32 | hidden bytes u32 | header | hidden states
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from struct import Struct
from typing import Any

import numpy as np

from mesh.errors import ConnectionLost, RemoteProtocolError
from mesh.llm.cores import leave
from mesh.llm.frames import DTYPES, Limits, header_bytes_max

_PREFIX = Struct("<II")
READ_BYTES = 256 << 10  # asked of the system at once: a step of some rows comes whole

Array = np.ndarray[Any, Any]


class Track:
    """Frames both ways; each way is used by one thread.

    Args:
        sock: connected, blocking; closed with this.
        limits: of the frames; what is longer is refused before there is memory for it.
    """

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock, self._width = sock, limits.width
        self._dtype = np.dtype(DTYPES[limits.hidden])
        self._header_max = header_bytes_max(limits)
        self._hidden_max = limits.tokens_max * limits.width * self._dtype.itemsize
        self._read = bytearray(READ_BYTES)
        self._begin = self._end = 0  # of what was read and not yet returned
        self._queue: deque[memoryview] = deque()
        self._changed = threading.Condition()
        self._writer: threading.Thread | None = None
        self._is_closed = False

    def put(self, header: bytes, hidden: Any) -> None:
        """Send a frame, or leave it to the writer; does not wait.

        Raises:
            ConnectionLost: the other side is gone.
        """
        flat = b"" if hidden is None else hidden.reshape(-1).view(np.uint8).data
        parts: list[Any] = [_PREFIX.pack(len(header), len(flat)) + header, flat]
        with self._changed:
            if self._is_closed:
                raise ConnectionLost("the next stage is gone")
            if not self._queue:
                parts = self._send_now(parts)
            if parts:
                self._queue.extend(memoryview(part) for part in parts)
                self._start_writer()

    def get(self) -> tuple[bytes, Array | None] | None:
        """Wait for the next frame; None when there are no more.

        Raises:
            RemoteProtocolError: what came is none.
        """
        try:
            if not self._fill(_PREFIX.size):
                return None
            header_bytes, hidden_bytes = _PREFIX.unpack_from(self._read, self._begin)
            self._check(header_bytes, hidden_bytes)
            self._begin += _PREFIX.size
            if not self._fill(header_bytes):
                return None
            header = bytes(self._read[self._begin : self._begin + header_bytes])
            self._begin += header_bytes
            if not hidden_bytes:
                return header, None
            hidden = self._take(hidden_bytes)
        except OSError:  # it was closed, here or there
            return None
        return None if hidden is None else (header, hidden)

    def close(self) -> None:
        """End it, whoever waits in it; called in any thread."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):  # the other side was first
            self._sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close, and give the socket back; called by the thread that reads, at its end."""
        self.close()
        if self._writer is not None:
            self._writer.join()
        self._sock.close()

    # --- sending -----------------------------------------------------------------------

    def _send_now(self, parts: list[Any]) -> list[Any]:
        """Return what the system did not take."""
        try:
            sent = self._sock.sendmsg(parts, [], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return parts
        except OSError as error:
            raise ConnectionLost(f"the next stage is gone: {error}") from error
        left = []
        for part in parts:
            if sent < len(part):
                left.append(memoryview(part)[sent:])
            sent = max(0, sent - len(part))
        return left

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="mesh-track", daemon=True)
            self._writer.start()
        self._changed.notify_all()

    def _write(self) -> None:
        leave()
        while True:
            with self._changed:
                while not self._queue and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                part = self._queue[0]
            try:
                self._sock.sendall(part)
            except OSError:
                self.close()  # who reads here ends too, and tells
                return
            with self._changed:
                self._queue.popleft()

    # --- receiving ---------------------------------------------------------------------

    def _fill(self, count: int) -> bool:
        """Read until so many bytes lie together; return whether they came."""
        if self._begin + count > len(self._read):
            rest = self._read[self._begin : self._end]
            if count > len(self._read):
                self._read = bytearray(count)
            self._read[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        view = memoryview(self._read)
        while self._end - self._begin < count:
            if self._begin == self._end:
                self._begin = self._end = 0
            got = self._sock.recv_into(view[self._end :])
            if not got:
                return False
            self._end += got
        return True

    def _take(self, count: int) -> Array | None:
        """Return the next bytes as hidden states, in memory of their own."""
        array = np.empty((count // (self._width * self._dtype.itemsize), self._width), self._dtype)
        view = array.reshape(-1).view(np.uint8).data
        here = min(count, self._end - self._begin)
        view[:here] = self._read[self._begin : self._begin + here]
        self._begin += here
        while here < count:
            got = self._sock.recv_into(view[here:])
            if not got:
                return None
            here += got
        return array

    def _check(self, header_bytes: int, hidden_bytes: int) -> None:
        row = self._width * self._dtype.itemsize
        is_fine = header_bytes <= self._header_max and hidden_bytes <= self._hidden_max
        if not is_fine or hidden_bytes % row:
            raise RemoteProtocolError(
                f"a frame of {header_bytes} and {hidden_bytes} bytes; expected up to"
                f" {self._header_max} and {self._hidden_max}, in rows of {row}"
            )

"""Joins a stage to the one before and the one after, and the head to both its neighbours.

Shell: by a track each. The one before connects; then, and not earlier, a stage connects to
the one after, so that a way round that is open at its end is open everywhere. All of it in the
thread that computes; at the head, which waits for people too, a thread reads for it.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mesh.errors import MeshError
from mesh.llm.frames import Limits
from mesh.llm.track import Track

log = logging.getLogger(__name__)


class Passage:
    """The tracks of one stage.

    Args:
        limits: of the frames.
        dial: connects to the stage after; blocks, raises `MeshError`.
    """

    def __init__(self, limits: Limits, dial: Callable[[], socket.socket]) -> None:
        self._limits, self._dial = limits, dial
        self._arrivals: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
        self._before: Track | None = None
        self._after: Track | None = None
        self._is_closed = False

    def take(self, sock: socket.socket) -> None:
        """Have the connection from the stage before; called in any thread, once."""
        if self._is_closed:
            sock.close()
        else:
            self._arrivals.put(sock)

    def receive(self) -> tuple[bytes, Any] | None:
        """Wait for the next frame; None when there are no more."""
        if self._before is None and not self._open():
            return None
        assert self._before is not None
        return self._before.get()

    def deliver(self, header: bytes, hidden: Any) -> None:
        """Send a frame on; does not wait."""
        assert self._after is not None
        self._after.put(header, hidden)

    def close(self) -> None:
        """Let `receive` return None; called in any thread."""
        self._is_closed = True
        self._arrivals.put(None)
        for track in (self._before, self._after):
            if track is not None:
                track.close()

    def release(self) -> None:
        """Give both connections back; the last call of the stage's thread."""
        self._is_closed = True
        for track in (self._before, self._after):
            if track is not None:
                track.release()
        while not self._arrivals.empty():
            sock = self._arrivals.get()
            if sock is not None:
                sock.close()

    def _open(self) -> bool:
        sock = self._arrivals.get()
        if sock is None:
            return False
        self._before = Track(sock, self._limits)
        self._after = Track(self._dial(), self._limits)
        if self._is_closed:  # meanwhile: whoever closed may not have seen these
            self.close()
        return not self._is_closed


class Departures:
    """Frames that leave as soon as whoever chose them lets go of its lock, in their order.

    The system may run whom a frame wakes in place of who sent it: nobody else should wait then.

    Args:
        sends: by lane, sends a frame.
    """

    def __init__(self, sends: Sequence[Callable[[bytes, Any], None]] = ()) -> None:
        self._sends = sends
        self._waiting = [deque[tuple[bytes, Any]]() for _ in sends]
        self._locks = [threading.Lock() for _ in sends]

    def put(self, lane: int, header: bytes, hidden: Any) -> None:
        """Let a frame leave at the next `flush`."""
        self._waiting[lane].append((header, hidden))

    def flush(self) -> None:
        """Send what waits; called in any thread."""
        for lane, waiting in enumerate(self._waiting):
            while waiting:
                with self._locks[lane]:
                    if waiting:
                        self._sends[lane](*waiting.popleft())


class Ring:
    """The head's tracks: to the first stage, and home from the last.

    Args:
        out: connection to the first.
        home: connection from the last.
        limits: of the frames.
        take: has each frame that comes home; called in a thread of this.
        ended: told once why nothing more comes; called in any thread.
    """

    def __init__(
        self,
        out: socket.socket,
        home: socket.socket,
        limits: Limits,
        take: Callable[[object, Any], None],
        ended: Callable[[str], None],
    ) -> None:
        self._out, self._home = Track(out, limits), Track(home, limits)
        self._take, self._ended = take, ended
        self._thread = threading.Thread(target=self._read, name="mesh-home", daemon=True)
        self._thread.start()

    def put(self, header: bytes, hidden: Any) -> None:
        """Send a frame; what cannot be sent is lost, and the chain is told."""
        try:
            self._out.put(header, hidden)
        except MeshError as error:
            self._ended(str(error))

    def close(self) -> None:
        """End both; called in any thread."""
        self._out.close()
        self._home.close()

    def _read(self) -> None:
        why = "the last stage has ended"
        try:
            while (found := self._home.get()) is not None:
                self._take(*found)
        except MeshError as error:
            why = str(error)
        except Exception as error:  # the thread's root: the chain is told
            log.exception("chain.frame_failed")
            why = f"a frame that came home could not be taken: {error!r}"
        self._ended(why)
        self._out.release()
        self._home.release()

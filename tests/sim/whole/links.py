"""Connections between simulated processes: TCP as programs see it, over links that fail.

Shell. Bytes arrive once and in order, or late, or never. A cut link holds them until it heals,
as retransmission does. A killed process resets its connections; a machine without power
says nothing, and what is sent to it afterwards is answered with a reset only if it is
back by then. A paused process accepts and buffers: its kernel still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.whole.process import Process
    from tests.sim.whole.town import Town

RESEND_S_MAX = 0.8  # after a cut, TCP tries again within its back-off
DATA, END, RESET = "data", "end", "reset"


class End(asyncio.Transport):
    """One end of a connection, as a transport."""

    def __init__(self, links: Links, process: Process, peername: str) -> None:
        super().__init__()
        self._links = links
        self.process = process
        self.peername = peername
        self.protocol: Any = None
        self.other: End
        self.is_over = False
        self.last_s = 0.0  # when the last segment to this end arrives: none overtakes
        self.held: list[tuple[str, bytes]] = []  # what is under way to this end, and stuck
        self._is_reading = True
        self._unread: list[tuple[str, bytes]] = []

    def write(self, data: Any) -> None:
        """Send."""
        if not self.is_over:
            self._links.carry(self, DATA, bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Send in one piece."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Send what is left, then the end."""
        self._finish(END)

    def abort(self) -> None:
        """Reset."""
        self._finish(RESET)

    def _finish(self, kind: str) -> None:
        if self.is_over:
            return
        self._links.carry(self, kind, b"")
        self.is_over = True
        self._links.ends.pop(self, None)
        self.process.loop.call_soon(self.protocol.connection_lost, None)

    def arrive(self, kind: str, data: bytes) -> None:
        """Hand over what has arrived; runs in the process's loop."""
        if self.is_over:
            return
        if not self._is_reading:
            self._unread.append((kind, data))
        elif kind == DATA:
            self.protocol.data_received(data)
        else:
            error = ConnectionResetError("reset by peer") if kind == RESET else None
            if kind == END:
                self._links.carry(self, END, b"")
            self.is_over = True
            self._links.ends.pop(self, None)
            self.protocol.connection_lost(error)

    def pause_reading(self) -> None:
        """Keep what arrives."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Hand over what was kept."""
        self._is_reading = True
        unread, self._unread = self._unread, []
        for kind, data in unread:
            self.process.loop.call_soon(self.arrive, kind, data)

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self.is_over

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand over to another protocol."""
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who gets the data."""
        return self.protocol  # type: ignore[no-any-return]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There are none: a link takes what it gets."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the address of the other side."""
        return self.peername if name == "peername" else default


class Links:
    """All connections of a world."""

    def __init__(self, world: Town) -> None:
        self._world = world
        self.ends: dict[End, None] = {}  # open ones, in the order in which they were made

    async def connect(self, process: Process, address: str, factory: Callable[[], Any]) -> Any:
        """Connect, be refused, or wait for ever."""
        done: asyncio.Future[Any] = process.loop.create_future()
        world = self._world
        there_s, back_s = world.stream_delay_s(process), world.stream_delay_s(process)

        def arrive() -> None:
            target = world.process_at(address)
            if target is None or world.is_off(address):
                if not world.is_off(address) and world.is_host(address):
                    refused = ConnectionRefusedError("nobody listens")
                    world.later(back_s, lambda: process.post(_fail, done, refused))
                return
            if world.is_stuck(process.name, target.name) or world.is_stuck(
                target.name, process.name
            ):
                return
            world.later(back_s, lambda: process.post(self._open, process, target, factory, done))

        world.later(there_s, arrive)
        return await done

    def _open(self, process: Process, target: Process, factory: Any, done: Any) -> None:
        if done.done() or not target.is_listening:
            return
        near, far = End(self, process, target.address), End(self, target, process.address)
        near.other, far.other = far, near
        self.ends[near] = self.ends[far] = None
        protocol = near.protocol = factory()
        target.post(target.accept, far)
        protocol.connection_made(near)
        done.set_result((near, protocol))

    def carry(self, sender: End, kind: str, data: bytes) -> None:
        """Bring a segment to the other end, some time."""
        world, end = self._world, sender.other
        due_s = max(end.last_s, world.now_s + world.stream_delay_s(sender.process, end.process))
        end.last_s = due_s
        world.at(due_s, lambda: self._arrive(end, kind, data))

    def _arrive(self, end: End, kind: str, data: bytes) -> None:
        world = self._world
        if end.held or world.is_stuck(end.other.process.name, end.process.name):
            end.held.append((kind, data))
            return
        if end.process.is_dead:
            if kind == DATA and not world.is_off(end.process.address):
                self.carry(end, RESET, b"")
            return
        end.process.post(end.arrive, kind, data)

    def release(self) -> None:
        """Send again what is stuck; what follows it waits behind it."""
        for end in list(self.ends):
            if end.held:
                delay_s = self._world.chance.random() * RESEND_S_MAX
                self._world.later(delay_s, lambda end=end: self._flush(end))  # type: ignore[misc]

    def _flush(self, end: End) -> None:
        if self._world.is_stuck(end.other.process.name, end.process.name):
            return
        held, end.held = end.held, []
        for kind, data in held:
            self._arrive(end, kind, data)

    def die(self, process: Process, *, is_silent: bool) -> None:
        """Break every connection of a process that is gone."""
        for end in [end for end in self.ends if end.process is process]:
            end.is_over = True
            if not is_silent:
                self.carry(end, RESET, b"")
            if end.other.is_over:
                self.ends.pop(end.other, None)
            self.ends.pop(end, None)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

"""A role that streams, in a process of its own: a flood of requests here leaves its engine alone.

Shell: `flow.local` serves `StreamLane.role` as if it were the role itself. Between the two
processes is a pair of sockets, and on it what nodes speak with each other, `wire.connection`.

    here                                       child: `flow.stream_child`
    Call load                        ->        builds the role and loads it
                                     <-        Answer, with what is wrong
    Call stream                      ->
                                     <-        Piece …, Answer or Failure
    Cancel                           ->        the item is freed within one step
                                     <-        Call ask/ROLE: it asks another role of the mesh
    the end of the socket            ->        the child ends, and the other way round

A child that dies fails what it had with `ConnectionLost`, which may be retried elsewhere. Until
it is started anew and has loaded, the role is not offered to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from mesh.errors import MeshError, NoOwner, NotFound, PeerError, RoleError, SetupError, Unreachable
from mesh.flow.hop import call_of, request_of
from mesh.flow.lane import Computed
from mesh.net.peer import Peer
from mesh.net.serving import Handler
from mesh.net.stream import Inbox, Reply, Stream, Way
from mesh.policy.request import Request
from mesh.roles.base import Context, Piece, StreamRole, Whole
from mesh.wire.connection import Connection, Limits
from mesh.wire.handshake import NONCE_BYTES
from mesh.wire.messages import Answer, Call, Fields
from mesh.wire.pulse import TICK_S

log = logging.getLogger(__name__)

LOAD, STREAM, STATISTICS, ASK = "load", "stream", "statistics", "ask/"
NODE = "(lane)"  # what both ends call themselves; no node has such a name
# What comes here has passed a door, and its limits are those that count.
LIMITS = Limits(message_bytes_max=1 << 30, calls_max=1 << 16)
START_S = 60.0  # until a child greets; Python and its imports take a second, on a busy machine ten
LOAD_MS = 24 * 3600 * 1000  # a role may load for long, as on a thread
STATISTICS_MS = 1000
CLOSE_S = 5.0  # how long a child may take to close its role
DYING_S = 1.0  # one whose connection is lost ends by itself; to kill it hides its exit code
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.1, 30.0  # before a child that died is started anew
STEADY_S = 60.0  # a child that lived this long did not die of its start


@dataclass(slots=True)
class _Child:
    """One process and the connection to it; `gone` is set when that ends."""

    process: asyncio.subprocess.Process
    peer: Peer
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def end(self, within_s: float) -> int:
        """Let it close its role, kill it if that takes longer; return its exit code."""
        self.peer.leave("closing", "the role is closed")
        try:
            async with asyncio.timeout(within_s):
                await self.process.wait()
        except TimeoutError:
            pass  # it is killed below
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        await self.peer.wait_handlers()
        assert self.process.returncode is not None
        return self.process.returncode


class StreamLane:
    """Keeps the process of one role, and starts it anew when it dies.

    Args:
        role: built but not loaded; it tells what items look like.
        changed: told with `role` whenever that stops to answer, and when it does so again.

    Raises:
        SetupError: the role works with other nodes while it runs.
    """

    def __init__(self, role: StreamRole, changed: Callable[[StreamRole, bool], None]) -> None:
        if role.context.links is not None:
            raise SetupError(
                f"roles.{role.context.role}.lane: a role whose layers are split works with other "
                "nodes' at each step; expected 'thread', found 'process'"
            )
        self.role: StreamRole = _Far(role, self)
        self.restarts = 0
        self.figures: Fields = {}  # what the child said of itself, up to a second ago
        self._kind = f"{type(role).__module__}:{type(role).__qualname__}"
        self._context = role.context
        self._changed = changed
        self._is_up = False
        self._child: _Child | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Start the child and wait until its role is loaded.

        Raises:
            SetupError: the role says that it cannot be loaded.
            RoleError: it failed to, or its process died.
        """
        self._child = await self._start()
        self._is_up = True
        self._keeping = asyncio.get_running_loop().create_task(self._keep(self._child))

    def compute(self, items: Sequence[Fields], done: Callable[[Computed], None]) -> None:
        """Never called: a role that streams forms its own batches."""
        raise AssertionError("a role that streams is given no batches")

    async def open_stream(self, call: Call, inbox: Inbox) -> tuple[Way, int]:
        """Make a call whose parts go to `inbox`.

        Raises:
            Unreachable: there is no child now.
        """
        if not self._is_up or self._child is None:
            name = self._context.role
            raise Unreachable(f"the process of role {name!r} has died and is started anew")
        return self._child.peer, await self._child.peer.open_stream(call, inbox)

    async def aclose(self) -> None:
        """Let the child close its role, and end it."""
        self._is_up = False
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            await child.end(CLOSE_S)

    # A child's life.

    async def _keep(self, child: _Child) -> None:
        """Watch the child; start another whenever it is gone."""
        wait_s = BACKOFF_S_MIN
        while True:
            began_s = monotonic()
            await self._watch(child)
            code = await child.end(DYING_S)
            log.error("lane.child_died", extra={"role": self._context.role, "code": code})
            wait_s = BACKOFF_S_MIN if monotonic() - began_s > STEADY_S else wait_s
            child, wait_s = await self._start_anew(wait_s)
            self.restarts += 1
            self._child, self._is_up = child, True
            self._changed(self.role, True)

    async def _watch(self, child: _Child) -> None:
        """Ask for signs of life and for figures until the child is gone."""
        while not child.gone.is_set():
            child.peer.tick()
            with contextlib.suppress(MeshError):  # late or lost: the next tick sees to it
                call = Call(to=STATISTICS, deadline_ms=STATISTICS_MS)
                self.figures = (await child.peer.call(call)).answer.fields
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await child.gone.wait()

    async def _start_anew(self, wait_s: float) -> tuple[_Child, float]:
        """Return a child that is loaded, and how long to wait if it dies soon."""
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(BACKOFF_S_MAX, 2 * wait_s)
            try:
                return await self._start(), wait_s
            except (MeshError, OSError) as error:
                name = self._context.role
                log.error("lane.child_failed", extra={"role": name, "why": str(error)})

    async def _start(self) -> _Child:
        child = await self._spawn()
        try:
            async with asyncio.timeout(START_S):
                await child.peer.wait_open()
            await self._load(child.peer)
        except (PeerError, TimeoutError) as error:
            code, name = await child.end(DYING_S), self._context.role
            raise RoleError(f"the process of role {name!r} ended with {code}", role=name) from error
        except BaseException:
            await child.end(0.0)
            raise
        return child

    async def _spawn(self) -> _Child:
        ours, its = socket.socketpair()
        ours.setblocking(False)
        try:
            with its:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "mesh.flow.stream_child", str(its.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
        except BaseException:
            ours.close()
            raise
        gone = asyncio.Event()

        def closed(_: Peer) -> None:
            gone.set()
            if self._is_up and self._child is not None and self._child.gone is gone:
                self._is_up = False
                self._changed(self.role, False)

        address = f"the process of role {self._context.role!r}"
        peer = Peer(connection(is_client=True), self._find, closed, NODE, address)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: peer, sock=ours)
        return _Child(process, peer, gone)

    async def _load(self, peer: Peer) -> None:
        told = {
            "kind": self._kind,
            "context": told_of(self._context),
            "log": logging.getLevelName(logging.getLogger("mesh").getEffectiveLevel()),
        }
        answered = await peer.call(Call(to=LOAD, fields=told, deadline_ms=LOAD_MS))
        problems, is_setup = answered.answer.fields["problems"], answered.answer.fields["is_setup"]
        if problems:
            raise SetupError(*problems) if is_setup else RoleError(*problems)

    # What the child asks.

    def _find(self, service: str) -> Handler:
        if not service.startswith(ASK):
            raise NotFound(f"no service {service!r} for a lane")
        return self._ask

    async def _ask(self, call: Call, reply: Reply) -> Answer:
        """Ask another role of the mesh for the child's."""
        name = call.to.removeprefix(ASK)
        if self._context.call is None:
            raise NoOwner("this role cannot ask others", role=name)
        return Answer(await self._context.call(name, call.fields, request_of(call, monotonic())))


class _Far(StreamRole):
    """Stands for a role whose real self is in a child process."""

    def __init__(self, role: StreamRole, lane: StreamLane) -> None:
        super().__init__(role.context)
        self.takes, self.gives = role.takes, role.gives  # type: ignore[misc]
        self.idempotent, self.resumable = role.idempotent, role.resumable  # type: ignore[misc]
        self._lane = lane

    async def stream(self, item: Fields, request: Request) -> AsyncIterator[Piece | Whole]:
        """Pass on what the child yields."""
        call = call_of(STREAM, item, request, monotonic(), wants_pieces=True)
        try:
            async with aclosing(Stream(self._lane.open_stream, call)) as parts:
                async for part in parts:
                    if isinstance(part, Answer):
                        timing = part.timing
                        size = timing.batch_size
                        yield Whole(part.fields, timing.queued_ms, timing.ran_ms, size)
                        return
                    yield Piece(part.fields)
        except MeshError as error:
            error.node = "" if error.node == NODE else error.node
            raise

    def statistics(self) -> dict[str, Any]:
        """Return the role's figures and the process's, up to a second old."""
        own = self._lane.figures.get("process", {})
        process = {**own, "restarts": self._lane.restarts}
        return {**self._lane.figures.get("role", {}), "process": process}


def connection(*, is_client: bool) -> Connection:
    """Return one end of what the two processes speak."""
    return Connection(
        is_client=is_client,
        mesh=NODE,
        node=NODE,
        secret="",  # a pair of sockets has no stranger at its other end
        nonce=os.urandom(NONCE_BYTES),
        limits=LIMITS,
    )


def told_of(context: Context) -> Fields:
    """Return a context as it travels; what it can ask of this node is asked in calls."""
    return {
        "role": context.role,
        "options": dict(context.options),
        "model": context.model,
        "data": str(context.data),
        "device": context.device,
        "threads": context.threads,
    }

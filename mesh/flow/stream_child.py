"""The other side of `flow.stream_lane`: one role that streams, on a loop of its own.

Shell: started as `python -m mesh.flow.stream_child SOCKET`; all else is told over that socket,
and with its end the process ends. What the role prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import psutil
import uvloop

from mesh.errors import NotFound, RoleError, SetupError
from mesh.flow.hop import call_of, request_of
from mesh.flow.lane import ThreadLane
from mesh.flow.served import Streamed
from mesh.flow.stream_lane import ASK, LIMITS, LOAD, NODE, STATISTICS, STREAM, connection
from mesh.net.peer import Peer
from mesh.net.serving import Handler
from mesh.net.stream import Reply
from mesh.observe import logs
from mesh.policy.request import Request
from mesh.roles import custom
from mesh.roles.base import Context, StreamRole
from mesh.wire.messages import Answer, Call, Fields

log = logging.getLogger(__name__)

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's <sys/prctl.h>


class Child:
    """What the parent may call."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.peer = Peer(
            connection(is_client=False), self._find, lambda _: self.ended.set(), NODE, "the node"
        )
        self._lane: ThreadLane | None = None
        self._served: Streamed | None = None
        self._handlers = {LOAD: self._load, STREAM: self._stream, STATISTICS: self._statistics}

    async def aclose(self) -> None:
        """End what runs and close the role."""
        await self.peer.wait_handlers()
        if self._lane is not None:
            await self._lane.aclose()

    def _find(self, service: str) -> Handler:
        if service not in self._handlers:
            raise NotFound(f"no service {service!r} in a lane")
        return self._handlers[service]

    async def _load(self, call: Call, reply: Reply) -> Answer:
        """Build the role and load it; the answer says what is wrong, if something is."""
        told = call.fields
        logs.configure(told["log"])
        context = told["context"] | {"data": Path(told["context"]["data"])}
        try:
            role = custom.find(told["kind"])(Context(**context, call=self._ask))
            assert isinstance(role, StreamRole)
            self._lane = ThreadLane(role)
            await self._lane.load()
        except SetupError as error:
            return Answer({"problems": list(error.problems) or [str(error)], "is_setup": True})
        except Exception as error:
            # Foreign code at its border: the parent says that the role cannot be loaded.
            log.exception("role.load_failed", extra={"role": context["role"]})
            return Answer({"problems": [f"{type(error).__name__}: {error}"], "is_setup": False})
        # The parent counts what is in flight: it has the limit.
        self._served = Streamed(role, self._lane, LIMITS.calls_max, monotonic)
        return Answer({"problems": [], "is_setup": False})

    async def _stream(self, call: Call, reply: Reply) -> Answer:
        served, request = self._role(), request_of(call, monotonic())
        async with aclosing(served.stream(call.fields, request)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    return part
                await reply.send(part)
        raise RoleError(f"role {served.role.context.role!r} ended its stream without an answer")

    async def _statistics(self, call: Call, reply: Reply) -> Answer:
        process = {"pid": os.getpid(), "rss_bytes": psutil.Process().memory_info().rss}
        return Answer({"role": self._role().role.statistics(), "process": process})

    async def _ask(self, role: str, fields: Fields, request: Request) -> Fields:
        """Ask another role of the mesh, through the parent."""
        call = call_of(ASK + role, fields, request, monotonic())
        return (await self.peer.call(call)).answer.fields

    def _role(self) -> Streamed:
        if self._served is None:
            raise RoleError("the role is not loaded")
        return self._served


async def serve(sock: socket.socket) -> None:
    """Serve one role until the parent closes the socket, or is no more."""
    child = Child()
    sock.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: child.peer, sock=sock)
    await child.ended.wait()
    await child.aclose()


def main(descriptor: int) -> None:
    """Serve one role to the parent, and die with it."""
    # A parent that is killed closes the socket, but a loop that is stopped would not see that.
    with contextlib.suppress(AttributeError, OSError):  # only Linux has it
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    # A terminal or a service manager tells the whole group to end; the parent drains first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    gc.set_threshold(5000, 20, 20)  # as `mesh.__main__` has it
    uvloop.run(serve(socket.socket(fileno=descriptor)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)  # torch's own destructors may abort a process whose roles computed in threads

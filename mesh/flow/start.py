"""The first attempt of a call, made without a task.

Shell: the router starts it where nothing is to be chosen, which is the way of most requests.
A task, a future and two turns of the loop cost a small model's request as much as all else
that the flow does for it. An error is handed to the router's own way, in a task: retries,
other nodes and the words of the error are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mesh.errors import MeshError, RoleError
from mesh.flow.directory import Endpoint
from mesh.flow.reach import Answered, PeerAnswered, Reach
from mesh.net.serving import Cancellable
from mesh.policy.edge import Edge
from mesh.policy.request import Request
from mesh.wire.messages import Answer, Fields

Tell = Callable[[Answered | MeshError], None]
GoOn = Callable[[MeshError], Coroutine[Any, Any, Answered]]


class Start:
    """One call under way.

    Args:
        reach: learns how it went.
        edge: of the role at that node.
        endpoint: the node.
        go_on: makes what follows an error.
        tell: called once, after `begin` has returned, with the answer or the last error; never
            after `cancel`.
    """

    __slots__ = ("_began_s", "_edge", "_endpoint", "_go_on", "_reach", "_started", "_task", "_tell")

    def __init__(
        self, reach: Reach, edge: Edge, endpoint: Endpoint, go_on: GoOn, tell: Tell
    ) -> None:
        self._reach = reach
        self._edge = edge
        self._endpoint = endpoint
        self._go_on = go_on
        self._tell = tell
        self._began_s = 0.0
        self._started: Cancellable | None = None
        self._task: asyncio.Task[Answered] | None = None

    def begin(self, role: str, fields: Fields, request: Request) -> bool:
        """Hand the item to the role; False, and nothing has happened, if it wants a task."""
        began_s = self._began_s = self._reach.now_s()
        try:
            self._started = self._reach.start(role, self._endpoint, fields, request, self._told)
        except MeshError as error:
            self._edge.sent(began_s)
            self._failed(error)
            return True
        if self._started is None:
            return False
        self._edge.sent(began_s)
        return True

    def cancel(self) -> None:
        """Give the call up."""
        if self._task is not None:
            self._task.cancel()
        elif self._started is not None:  # it has not told
            self._started.cancel()
            self._started = None
            self._reach.abandoned(self._edge, self._began_s)

    def _told(self, outcome: Answer | PeerAnswered | MeshError) -> None:
        if isinstance(outcome, MeshError):
            self._failed(outcome)
            return
        self._started = None  # it holds us: a ring that only the collector would find
        if isinstance(outcome, Answer):
            answer, network_ms = outcome, 0.0
        else:
            answer, network_ms = outcome.answer, outcome.network_ms
        edge, endpoint, began_s = self._edge, self._endpoint, self._began_s
        self._tell(self._reach.answered(edge, endpoint, answer, network_ms, 1, began_s))

    def _failed(self, error: MeshError) -> None:
        self._started = None
        self._reach.failed(self._edge, error, self._began_s)
        self._task = asyncio.get_running_loop().create_task(self._go_on(error))
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Answered]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._tell(task.result())
        elif isinstance(error, MeshError):
            self._tell(error)
        else:
            self._tell(RoleError(f"{type(error).__name__} in this node"))
            raise error  # to the loop, which writes the traceback

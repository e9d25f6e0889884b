"""Answers a request that comes twice under one id with one answer, from any node.

Shell: the ring names a keeper of each id, and every door brings a request with an
id of the caller's own there: it joins an equal one in flight, or gets the answer
that one had. So a client whose door died may ask another door again.

    door --(pipeline, fields, id)--> keeper of the id --> pipeline
                                      |- in flight: join it
                                      '- answered lately: the same answer

The key is id, pipeline and content: an id that is used again for another question
gets another answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any

from mesh.errors import (
    CapacityError,
    DeadlineExceeded,
    MeshError,
    NoOwner,
    NotFound,
    PeerError,
    PeerTimeout,
)
from mesh.flow.directory import Directory, Endpoint
from mesh.flow.doubt import Doubts
from mesh.flow.hop import request_of
from mesh.flow.local import Reply
from mesh.flow.pipeline import Outcome, Pipelines
from mesh.flow.race import Interruption
from mesh.flow.reach import PeerAnswered, Peers
from mesh.flow.single import SingleFlight
from mesh.observe.traces import begun
from mesh.policy.attempts import may_have_begun
from mesh.policy.cache import Cache, content_key, encoded
from mesh.policy.deadline import exceeded, left_ms
from mesh.policy.request import Request
from mesh.roles import custom
from mesh.settings.topology import Topology
from mesh.wire.messages import Answer, Call, Fields, Timing

SERVICE = "once/"  # prefix of the service at a keeper; the pipeline's name follows
KEEPERS_MAX = 2  # the keeper and its successor; then the door itself answers
KEPT_MAX = 10_000  # answers; with KEPT_BYTES_MAX what idempotency may cost a node
KEPT_BYTES_MAX = 64 << 20
KEPT_S = 300.0  # a client that asks again later than that has given up long ago
_TRACE = ""  # the trace travels beside the fields, and no field has an empty name


class Once:
    """Requests by id.

    Args:
        pipelines: run what is asked for the first time.
        directory: knows the keepers.
        peers: brings requests to keepers.
        topology: returns the current topology.
        doubts: say when a keeper is suspected.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        directory: Directory,
        peers: Peers,
        topology: Callable[[], Topology],
        doubts: Doubts,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._pipelines = pipelines
        self._directory = directory
        self._peers = peers
        self._topology = topology
        self._doubts = doubts
        self._clock = clock
        self._answers: Cache[Outcome] = Cache(KEPT_MAX, KEPT_BYTES_MAX, KEPT_S)
        self._flights: SingleFlight[Outcome] = SingleFlight()
        self._riders: set[asyncio.Task[Outcome]] = set()  # that see through what runs only once
        self._joined = 0
        self._forwarded = 0

    async def run(self, name: str, inputs: Fields, request: Request) -> Outcome:
        """Answer a request whose id the caller chose; as `Pipelines.run`, but once."""
        if name not in self._topology().pipelines:
            raise NotFound(f"no pipeline {name!r}", request_id=request.id)
        for keeper in self._directory.keepers(request.id)[:KEEPERS_MAX]:
            if keeper.is_self or not self._knows(name, inputs):
                break
            try:
                return await self._ask(keeper, name, inputs, request)
            except (PeerError, CapacityError) as error:
                if not self._may_go_on(error, keeper, name):
                    raise
        return await self._run_here(name, inputs, request)

    async def handle(self, call: Call, reply: Reply) -> Answer:
        """Answer another door: the handler of services `once/…`."""
        request, name = request_of(call, self._clock()), call.to.removeprefix(SERVICE)
        if not self._knows(name, call.fields):
            raise NoOwner(f"this node's topology has no such pipeline {name!r}")
        outcome = await self._run_here(name, call.fields, request)
        return Answer({**outcome.fields, _TRACE: outcome.trace}, Timing())

    def statistics(self) -> dict[str, int]:
        """Return the counts."""
        return {
            **self._answers.statistics(),
            "in_flight": len(self._flights),
            "joined": self._joined,
            "forwarded": self._forwarded,
        }

    async def _ask(self, keeper: Endpoint, name: str, inputs: Fields, request: Request) -> Outcome:
        self._forwarded += 1
        call = Call(
            to=SERVICE + name,
            fields=inputs,
            deadline_ms=left_ms(request.deadline_s, self._clock()),
            request_id=request.id,
            priority=int(request.priority),
            traceparent=request.traceparent or begun(request.id),
        )
        reached = await self._reach(keeper, call)
        fields = dict(reached.answer.fields)
        return Outcome(fields, fields.pop(_TRACE))

    async def _reach(self, keeper: Endpoint, call: Call) -> PeerAnswered:
        """Call a keeper, and give it up when it is in doubt."""
        interruption = Interruption()
        with self._doubts.watch(keeper, interruption.fire), interruption:
            return await self._peers.call(keeper.address, call)
        raise PeerTimeout(f"node {keeper.name!r} fell silent", node=keeper.name)

    def _knows(self, name: str, inputs: Fields) -> bool:
        """Whether the pipeline is here, and takes these; doors take a topology over one by one."""
        pipeline = self._topology().pipelines.get(name)
        return pipeline is not None and inputs.keys() == set(pipeline.input)

    def _may_go_on(self, error: MeshError, keeper: Endpoint, name: str) -> bool:
        """Whether the door may do without this keeper: not if something would run twice.

        What the keeper's own pipeline met comes from elsewhere in the mesh, and is the answer.
        """
        if error.node and error.node != keeper.name:
            return False
        return self._is_idempotent(name) or not may_have_begun(error)

    def _is_idempotent(self, name: str) -> bool:
        topology = self._topology()
        stages = topology.pipelines[name].stages if name in topology.pipelines else ()
        return all(custom.is_idempotent(topology.roles[stage.role].kind) for stage in stages)

    async def _run_here(self, name: str, inputs: Fields, request: Request) -> Outcome:
        key = content_key(encoded({"id": request.id, "name": name, "inputs": inputs}))
        kept = self._answers.get(key, self._clock())
        if kept is not None:
            return again(kept)
        run_first = partial(self._run_first, key, name, inputs, request)
        while True:
            is_first = key not in self._flights
            if is_first and not self._is_idempotent(name):
                self._see_through(self._flights.join(key, run_first))
            try:
                async with asyncio.timeout_at(request.deadline_s):
                    outcome = await self._flights.join(key, run_first)
            except TimeoutError as error:
                raise exceeded() from error
            except DeadlineExceeded:
                if is_first or self._clock() >= request.deadline_s:
                    raise
                continue  # the first one had less time than we have
            if is_first:
                return outcome
            self._joined += 1
            return again(outcome)

    def _see_through(self, ride: Coroutine[Any, Any, Outcome]) -> None:
        """Wait for work that may not run twice, also when everybody else has gone.

        A client whose door died asks again, and is to find the answer and not to start anew.
        """
        task = asyncio.ensure_future(ride)
        self._riders.add(task)
        task.add_done_callback(self._riders.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _run_first(self, key: bytes, name: str, inputs: Fields, request: Request) -> Outcome:
        outcome = await self._pipelines.run(name, inputs, request)
        self._answers.put(key, outcome, len(encoded(outcome.fields)), self._clock())
        return outcome


def again(outcome: Outcome) -> Outcome:
    """Return an outcome as given a second time: its stages ran for somebody else."""
    stages: list[dict[str, Any]] = [{**stage, "cached": True} for stage in outcome.trace["stages"]]
    return Outcome(dict(outcome.fields), {**outcome.trace, "stages": stages})

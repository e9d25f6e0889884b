"""Runs a request through the stages of a pipeline, each as soon as its fields exist.

Shell: `policy.plan` says which stages are ready, the router runs them. Stages
that wait for nothing of each other run at once. The first error cancels the
rest, and closing a stream cancels all of it, on every node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Any

import msgspec

from mesh.errors import MeshError, NotFound, RoleError
from mesh.flow.router import Answered, Router
from mesh.net.serving import Cancellable
from mesh.policy.deadline import exceeded
from mesh.policy.plan import Graph, Plan
from mesh.policy.request import Request
from mesh.settings.topology import Pipeline, Topology
from mesh.wire.messages import Fields

# What `generate` counts, kept in the trace.
TOKENS = ("prompt_tokens", "cached_tokens", "answer_tokens", "finish")
EVENTS_MAX = 64  # parts of a stream that wait for a slow reader; then the role waits


@dataclass(frozen=True, slots=True)
class FieldReady:
    """A field of the output is finished."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """What is new of a field of the output that is still being made."""

    field: str
    text: Any


class Outcome(msgspec.Struct, frozen=True):
    """The whole answer and where its time went, as `CONTRACT` of the native door shows it."""

    fields: Fields
    trace: dict[str, Any]


Event = FieldReady | TokenPiece | Outcome
Tell = Callable[[Outcome | MeshError], None]


class Pipelines:
    """Every pipeline of the topology, and every role as a pipeline of one stage.

    Args:
        topology: returns the current topology; a request keeps the one that it began with.
        router: runs a stage.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        topology: Callable[[], Topology],
        router: Router,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._topology = topology
        self._router = router
        self._clock = clock
        self._graphs: dict[str, tuple[Pipeline, Graph]] = {}
        self._totals: dict[str, int] = {}

    async def run(self, name: str, inputs: Fields, request: Request) -> Outcome:
        """Answer a request.

        Raises:
            MeshError: the first that a stage met; `Unprocessable` for wrong inputs.
        """
        run = self._begin(name, inputs, request)
        return await run.finish(inputs)

    async def stream(
        self, name: str, inputs: Fields, request: Request
    ) -> AsyncGenerator[Event, None]:
        """Answer a request part by part; the last part is the `Outcome`. Close it to cancel."""
        run = self._begin(name, inputs, request)
        async with aclosing(run.parts(inputs)) as parts:
            async for part in parts:
                yield part

    async def run_role(self, role: str, fields: Fields, request: Request) -> Outcome:
        """Answer one call of a role: the shortest way, without a plan or a task."""
        began_s = self._clock()
        answered = await self._router.call(role, fields, request)
        return self._of_role(role, answered, request, began_s)

    def start_role(
        self, role: str, fields: Fields, request: Request, tell: Tell
    ) -> Cancellable | None:
        """Begin `run_role` without a task, and tell how it ended; None if only `run_role` can."""
        began_s = self._clock()

        def told(answered: Answered | MeshError) -> None:
            if isinstance(answered, MeshError):
                tell(answered)
            else:
                tell(self._of_role(role, answered, request, began_s))

        return self._router.start(role, fields, request, told)

    async def stream_role(
        self, role: str, fields: Fields, request: Request
    ) -> AsyncGenerator[Event, None]:
        """Answer one call of a role part by part."""
        began_s = self._clock()
        async with aclosing(self._router.stream(role, fields, request)) as parts:
            async for part in parts:
                if isinstance(part, Answered):
                    for name, value in part.fields.items():
                        yield FieldReady(name, value)
                    yield self._of_role(role, part, request, began_s)
                    return
                for name, text in part.fields.items():
                    yield TokenPiece(name, text)

    def deadline_s(self, name: str) -> float:
        """Return a pipeline's own default deadline, 0.0 if it has none."""
        pipeline = self._topology().pipelines.get(name)
        return pipeline.deadline_s if pipeline else 0.0

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return the pipelines' inputs, outputs and counts."""
        return {
            name: {
                "input": list(pipeline.input),
                "output": list(pipeline.output),
                "stages": [stage.name for stage in pipeline.stages],
                "total_requests": self._totals.get(name, 0),
            }
            for name, pipeline in self._topology().pipelines.items()
        }

    def _begin(self, name: str, inputs: Fields, request: Request) -> _Run:
        pipelines = self._topology().pipelines
        pipeline = pipelines.get(name)
        if pipeline is None:
            known = ", ".join(pipelines) or "none"
            raise NotFound(f"no pipeline {name!r}; there are {known}", request_id=request.id)
        cached = self._graphs.get(name)
        if cached is None or cached[0] is not pipeline:
            cached = self._graphs[name] = (pipeline, Graph(pipeline))
        graph = cached[1]
        graph.check_input(inputs)
        self._totals[name] = self._totals.get(name, 0) + 1
        return _Run(graph, self._router, request, self._clock)

    def _of_role(self, role: str, answered: Answered, request: Request, began_s: float) -> Outcome:
        total_ms = (self._clock() - began_s) * 1000.0
        return Outcome(
            answered.fields, trace(request, total_ms, [stage_trace(role, role, answered)])
        )


class _Run:
    """One request in one pipeline."""

    def __init__(
        self, graph: Graph, router: Router, request: Request, clock: Callable[[], float]
    ) -> None:
        self._plan = Plan(graph)
        self._router = router
        self._request = request
        self._clock = clock
        self._began_s = clock()
        self._told: list[dict[str, Any]] = [{} for _ in graph.stages]  # of each stage
        self._events: asyncio.Queue[FieldReady | TokenPiece | None] | None = None

    async def finish(self, inputs: Fields) -> Outcome:
        """Run every stage and return the answer; the router ends each at the deadline."""
        await self._stages_all(self._plan.begin(inputs))
        total_ms = (self._clock() - self._began_s) * 1000.0
        return Outcome(self._plan.output(), trace(self._request, total_ms, self._told))

    async def parts(self, inputs: Fields) -> AsyncGenerator[Event, None]:
        """Run every stage and yield what becomes known, then the answer."""
        events = self._events = asyncio.Queue(EVENTS_MAX)
        task = asyncio.create_task(self._finish_and_tell(inputs, events))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await task
        finally:
            await _cancel({task})

    async def _finish_and_tell(
        self, inputs: Fields, events: asyncio.Queue[FieldReady | TokenPiece | None]
    ) -> Outcome:
        try:
            outcome = await self._finish_in_time(inputs)
        except Exception:  # not a cancellation: then nobody reads, and a full queue would hold us
            await events.put(None)
            raise
        await events.put(None)
        return outcome

    async def _finish_in_time(self, inputs: Fields) -> Outcome:
        """Run every stage; a reader who takes no events holds them until the deadline."""
        try:
            async with asyncio.timeout_at(self._request.deadline_s):
                return await self.finish(inputs)
        except TimeoutError as error:
            raise exceeded() from error

    async def _stages_all(self, ready: list[int]) -> None:
        """Run stages until none is left; a lone one runs here, without a task of its own."""
        tasks: dict[asyncio.Task[Fields], int] = {}
        try:
            while ready or tasks:
                if len(ready) == 1 and not tasks:
                    ready = self._settle(ready[0], await self._run_stage(ready[0]))
                    continue
                for index in ready:
                    tasks[asyncio.create_task(self._run_stage(index))] = index
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                ready = []
                for task in done:
                    ready += self._settle(tasks.pop(task), task.result())
        finally:
            if tasks:
                await _cancel(set(tasks))

    def _settle(self, index: int, fields: Fields) -> list[int]:
        try:
            return self._plan.finish(index, fields)
        except KeyError as error:
            stage = self._plan.graph.stages[index]
            given = ", ".join(map(repr, fields)) or "nothing"
            raise RoleError(
                f"stage {stage.name!r} promises field {error.args[0]!r} of role {stage.role!r}, "
                f"which gave {given}",
                role=stage.role,
            ) from error

    async def _run_stage(self, index: int) -> Fields:
        stage = self._plan.graph.stages[index]
        item = self._plan.item(index)
        if self._events is None:
            answered = await self._router.call(stage.role, item, self._request)
        else:
            answered = await self._stream_stage(stage, item, self._events)
        self._told[index] = stage_trace(stage.name, stage.role, answered)
        return answered.fields

    async def _stream_stage(
        self, stage: Any, item: Fields, events: asyncio.Queue[FieldReady | TokenPiece | None]
    ) -> Answered:
        """Run a stage, telling of those fields only that the caller asked for."""
        shown = {s: t for s, t in stage.give.items() if t in self._plan.graph.output}
        if not shown:
            return await self._router.call(stage.role, item, self._request)
        parts = self._router.stream(stage.role, item, self._request)
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, Answered):
                    for source, target in shown.items():
                        if source in part.fields:
                            await events.put(FieldReady(target, part.fields[source]))
                    return part
                for source, text in part.fields.items():
                    if source in shown:
                        await events.put(TokenPiece(shown[source], text))
        raise RoleError(f"role {stage.role!r} ended its stream without an answer", role=stage.role)


def stage_trace(name: str, role: str, answered: Answered) -> dict[str, Any]:
    """Return what the trace says of one stage."""
    told = {
        "name": name,
        "role": role,
        "node": answered.node,
        "queued_ms": _in_us(answered.queued_ms),
        "ran_ms": _in_us(answered.ran_ms),
        "network_ms": _in_us(answered.network_ms),
        "batch_size": answered.batch_size,
        "attempts": answered.attempts,
        "cached": answered.cached,
    }
    if answered.version:
        told["version"] = answered.version
    if "answer_tokens" in answered.fields:  # of a language model: what it costs
        told |= {name: answered.fields.get(name) for name in TOKENS}
    return told


def trace(request: Request, total_ms: float, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the trace of a request."""
    return {"id": request.id, "total_ms": _in_us(total_ms), "stages": stages}


def _in_us(ms: float) -> float:
    """Return whole microseconds, as `round(ms, 3)` does in four times the time."""
    return int(ms * 1000.0 + 0.5) / 1000.0


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has let go of what it held."""
    for task in tasks:
        task.cancel()
    if tasks:
        # Their errors are the cancellation's, or came second: the first is on its way already.
        await asyncio.gather(*tasks, return_exceptions=True)

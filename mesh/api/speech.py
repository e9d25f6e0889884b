"""Asks a model for text, whatever it is made of: a role that generates, or a pipeline.

Shell: `flow.pipeline` does the work. Several answers at once run side by side; the first
error ends all of them, and closing a stream cancels every one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mesh.api import answer
from mesh.api.catalog import Model
from mesh.api.native import counted, note
from mesh.api.parts import Parts
from mesh.flow.pipeline import FieldReady, Outcome, TokenPiece
from mesh.policy.request import Request
from mesh.wire.messages import Fields

PIECES_MAX = 64  # that wait for a slow reader; then the models wait
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Odd:
    """One token of an answer: its log probability, and the best alternatives with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """How an answer ended.

    Attributes:
        reason: "stop" or "length".
        prompt_tokens: of every model that took part.
        answer_tokens: the same.
        cached_tokens: of the prompts, those that were read for other answers.
        others: what else a pipeline gave.
    """

    reason: str
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int = 0
    others: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """What is new of one answer, or all of it."""

    index: int
    text: str
    odds: tuple[Odd, ...] = ()
    finished: Finished | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What one answer is to be about: the fields of the role, or the text of the pipeline."""

    index: int
    model: Model
    fields: Fields


async def say(parts: Parts, question: Question, asked: Request) -> Said:
    """Return one whole answer."""
    model, run = question.model, parts.pipelines
    with counted(parts, model.label):
        outcome = (
            await run.run(model.pipeline, question.fields, asked)
            if model.pipeline
            else await run.run_role(model.role, question.fields, asked)
        )
    note(parts, model.label, outcome.trace)
    text = text_of(outcome.fields[model.output])
    odds = _odds(outcome.fields.get("logprobs")) if model.role else ()
    return Said(question.index, text, odds, _finished(model, outcome))


async def speak(parts: Parts, question: Question, asked: Request) -> AsyncGenerator[Said, None]:
    """Yield one answer as it comes; the last part says how it ended."""
    model, run = question.model, parts.pipelines
    flow = (
        run.stream(model.pipeline, question.fields, asked)
        if model.pipeline
        else run.stream_role(model.role, question.fields, asked)
    )
    has_spoken = False
    odds: tuple[Odd, ...] = ()
    async with aclosing(flow):
        with counted(parts, model.label):
            async for part in flow:
                if isinstance(part, Outcome):
                    note(parts, model.label, part.trace)
                    yield Said(question.index, "", odds, _finished(model, part))
                elif isinstance(part, TokenPiece) and part.field == "logprobs" and model.role:
                    odds = (*odds, *_odds(part.text))
                elif isinstance(part, TokenPiece) and part.field == model.output:
                    has_spoken = True
                    yield Said(question.index, text_of(part.text), odds)
                    odds = ()
                elif isinstance(part, FieldReady) and part.name == model.output and not has_spoken:
                    yield Said(question.index, text_of(part.value))


async def together(work: Sequence[Awaitable[Result]]) -> list[Result]:
    """Return every result, in order; the first error cancels the rest and is raised."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def mixed(flows: Sequence[AsyncGenerator[Said, None]]) -> AsyncGenerator[Said, None]:
    """Yield the parts of several answers as they come."""
    if len(flows) == 1:
        async with aclosing(flows[0]) as flow:
            async for said in flow:
                yield said
        return
    queue: asyncio.Queue[Said | BaseException | None] = asyncio.Queue(PIECES_MAX)
    tasks = [asyncio.ensure_future(_pump(flow, queue)) for flow in flows]
    try:
        left = len(tasks)
        while left:
            part = await queue.get()
            if isinstance(part, BaseException):
                raise part
            if part is None:
                left -= 1
            else:
                yield part
    finally:
        await _cancel(tasks)


async def _pump(
    flow: AsyncGenerator[Said, None], queue: asyncio.Queue[Said | BaseException | None]
) -> None:
    try:
        async with aclosing(flow):
            async for part in flow:
                await queue.put(part)
    except Exception as error:  # noqa: BLE001 - a task's root: the reader raises it
        await queue.put(error)
    else:
        await queue.put(None)


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs, and wait until it has let go of what it held."""
    for task in tasks:
        task.cancel()
    # Their errors are the cancellation's, or came second: the first is on its way already.
    await asyncio.gather(*tasks, return_exceptions=True)


def text_of(value: Any) -> str:
    """Return an answer as text; what is none is shown as JSON."""
    return value if isinstance(value, str) else answer.encode(value).decode()


def _odds(told: Any) -> tuple[Odd, ...]:
    return tuple(
        Odd(each["token"], each["logprob"], tuple((name, value) for name, value in each["top"]))
        for each in told or ()
    )


def _finished(model: Model, outcome: Outcome) -> Finished:
    stages = outcome.trace["stages"]
    reasons = [stage["finish"] for stage in stages if "finish" in stage]
    others = {name: value for name, value in outcome.fields.items() if name != model.output}
    return Finished(
        reason="length" if "length" in reasons else "stop",
        prompt_tokens=sum(stage.get("prompt_tokens", 0) for stage in stages),
        answer_tokens=sum(stage.get("answer_tokens", 0) for stage in stages),
        cached_tokens=sum(stage.get("cached_tokens", 0) for stage in stages),
        others=others if model.pipeline else {},
    )

"""Builds the head of a split model: its ends, its engine, and the chain that it keeps.

Shell: reads files, starts the engine's thread and the chain's task. Used by
`roles.generate`, on the role's lane.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mesh.errors import SetupError
from mesh.llm.blocks import BLOCK, blocks
from mesh.llm.chain import Chain
from mesh.llm.frames import DTYPES, Limits
from mesh.llm.links import Links
from mesh.llm.loading import (
    EngineSettings,
    Opened,
    is_steady,
    ledger_of,
    read_stage,
    reuse_of,
)
from mesh.llm.order import FORMS, Order
from mesh.llm.relay import Relay
from mesh.llm.scheduler import Scheduler
from mesh.llm.split import Costs
from mesh.models.architecture import Architecture
from mesh.models.checkpoint import open_checkpoint
from mesh.models.decoder import Layer, Stage
from mesh.models.ends import Ends
from mesh.models.threads import use_threads
from mesh.models.tokenizer import open_tokenizer

REPLAY = 16  # positions of one sequence said again per step: few enough to stay narrow products
MEASURED_ROWS, MEASURED_TIMES = 4, 5
OPEN_S = 600.0  # for a chain to open the first time


class HeadEngine(Relay):
    """A relay that shows and ends its chain."""

    chain: Chain
    task: asyncio.Task[None]
    loop: asyncio.AbstractEventLoop

    def statistics(self) -> dict[str, object]:
        """Return the engine's figures with the chain's."""
        return {**super().statistics(), "chain": self.chain.statistics()}

    def close(self) -> None:
        """Let go of the stages and end the thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.task.cancel)
        super().close()


def open_head(
    path: Path,
    settings: EngineSettings,
    links: Links,
    layers: object,
    *,
    hidden: str = "float32",
    report: Callable[[BaseException], None] = lambda error: None,
) -> Opened:
    """Load the head's part and open the way round; returns once it is open.

    Args:
        path: of the model.
        settings: as of a whole model.
        links: to the other nodes.
        layers: "auto", or layers per node.
        hidden: how hidden states travel, "float32" or "bfloat16" (half the bytes, rounded).
        report: told what a step raised.

    Raises:
        SetupError: files or settings cannot be used.
    """
    _check(settings, hidden)
    use_threads(1)  # see `loading.open_engine`: all of them only in the engine's own thread
    checkpoint = open_checkpoint(path)
    shape = checkpoint.architecture
    counts = _counts(layers, shape.layers)
    tokenizer = open_tokenizer(path, checkpoint.metadata, shape.end_tokens)
    context = min(settings.context_max, shape.context)
    limits = _limits(settings, shape, context, hidden)
    order = Order(
        0, 1, limits, settings.weights, settings.has_wide, "", False, is_steady=is_steady(settings)
    )
    ends = Ends(checkpoint, form=settings.weights)
    del checkpoint
    first = read_stage(path, order, {})
    costs = measure(first, ends)
    scheduler = _scheduler(settings, shape, context)

    def read(a: int, b: int, known: Mapping[int, Layer]) -> Stage:
        return read_stage(path, replace(order, first=a, last=b), {0: first.layers[0], **known})

    engine = HeadEngine(
        ends,
        scheduler,
        tokenizer.decode,
        limits,
        prepare=lambda: use_threads(settings.threads),
        report=report,
        broken=lambda epoch, error: engine.chain.broken(epoch, error),
        threads=settings.threads,
    )
    engine.loop = links.loop
    engine.chain = Chain(
        links, engine, order, shape.layers, counts, costs, read, uuid.uuid4().hex[:16]
    )
    asyncio.run_coroutine_threadsafe(_start(engine), links.loop).result(OPEN_S)
    size = ends.size_bytes() + first.size_bytes() * shape.layers
    return Opened(engine, tokenizer, shape, context, size)


async def _start(engine: HeadEngine) -> None:
    """Start the chain and wait until it is open, or has failed for good."""
    engine.task = asyncio.create_task(engine.chain.run())
    opened = asyncio.create_task(engine.chain.opened.wait())
    await asyncio.wait([engine.task, opened], return_when=asyncio.FIRST_COMPLETED)
    opened.cancel()
    if engine.task.done():
        engine.task.result()


def _limits(settings: EngineSettings, shape: Architecture, context: int, hidden: str) -> Limits:
    return Limits(
        slots=settings.sequences_max,
        cap=blocks(context) * BLOCK,
        width=shape.width,
        tokens_max=max(settings.chunk, settings.sequences_max * REPLAY),
        hidden=hidden,
    )


def _scheduler(settings: EngineSettings, shape: Architecture, context: int) -> Scheduler:
    return Scheduler(
        ledger_of(settings, context, _budget(settings, shape, context)),
        chunk=settings.chunk,
        queue_max=settings.queue_max,
        rows_max=REPLAY,
        reuse=reuse_of(settings),
        drafts_max=settings.drafts_max,
    )


def _check(settings: EngineSettings, hidden: str) -> None:
    if settings.weights not in FORMS:
        raise SetupError(f"weights = {settings.weights!r}: expected one of {', '.join(FORMS)}")
    if hidden not in DTYPES:
        raise SetupError(f"hidden = {hidden!r}: expected one of {', '.join(DTYPES)}")


def _counts(layers: object, total: int) -> Sequence[int]:
    """Return layers per node as the topology has them; none where the cost decides."""
    if layers == "auto":
        return ()
    is_list = isinstance(layers, (list, tuple)) and all(type(each) is int for each in layers)
    if not is_list or min(layers, default=-1) < 0 or sum(layers) != total:  # type: ignore[call-overload]
        raise SetupError(f'layers = {layers!r}: expected "auto", or counts that sum to {total}')
    return tuple(layers)  # type: ignore[arg-type]


def _budget(settings: EngineSettings, shape: Architecture, context: int) -> int:
    """Return how many blocks of keys and values may be held, over all nodes."""
    most = settings.sequences_max * blocks(context)
    if not settings.kv_mb:
        return most
    position_bytes = 8 * shape.layers * shape.kv_heads * shape.head_width
    given = (settings.kv_mb << 20) // (position_bytes * BLOCK)
    if given < 1:
        raise SetupError(f"kv_mb = {settings.kv_mb} holds less than {BLOCK} positions")
    return min(most, given)


@torch.inference_mode()
def measure(stage: Stage, ends: Ends) -> Costs:
    """Return what a layer and both ends cost here, in time and bytes."""
    rows = min(MEASURED_ROWS, stage.cache.slots)
    x = torch.randn(rows, stage.architecture.width)
    plan = stage.rows(list(range(rows)), [min(64, stage.cache.cap - 1)] * rows)
    count = stage.last - stage.first
    cache_bytes = stage.cache.position_bytes * stage.cache.cap * stage.cache.slots
    return Costs(
        layer_s=_fastest(lambda: stage.decode(x, plan)) / count,
        ends_s=_fastest(lambda: ends.best(x)),
        layer_bytes=(stage.size_bytes() + cache_bytes) // count,
        ends_bytes=ends.size_bytes(),
    )


def _fastest(work: Callable[[], Any]) -> float:
    """Return seconds of the fastest of some runs: the others met something else."""
    found = []
    for _ in range(MEASURED_TIMES):
        began_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - began_s)
    return min(found)

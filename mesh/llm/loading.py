"""Builds an engine from a model's files.

Shell: reads files and starts the engine's thread. Used by `roles.generate`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from mesh.errors import BadRequest, SetupError
from mesh.llm.blocks import BLOCK, Ledger, blocks
from mesh.llm.engine import Engine
from mesh.llm.order import FORMS, Order
from mesh.llm.prefix import Reuse
from mesh.llm.runner import Whole
from mesh.llm.scheduler import Scheduler
from mesh.models.architecture import Architecture
from mesh.models.checkpoint import Checkpoint, open_checkpoint
from mesh.models.decoder import Layer, Stage
from mesh.models.ends import Ends
from mesh.models.threads import use_threads
from mesh.models.tokenizer import Tokenizer, open_tokenizer

WARM_TOKENS = 40  # more than the narrow kernels take, so that both ways are run once


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine may use.

    Attributes:
        weights: a form of `models.quantize`; "float32" is the exact mode.
        threads: torch computes with.
        sequences_max: answers made at once.
        context_max: positions of one answer with its prompt; the model's own limit if smaller.
        kv_mb: of keys and values over all answers; 0 for as much as the two above can use.
        chunk: prompt tokens per step.
        queue_max: answers that may wait.
        has_wide: keep a bf16 copy of quantised matrices: prompts are read some 4 times faster,
            and steps of many answers made 1.2 times faster.
        reuse: of what was computed for other answers: a value of `llm.prefix.Reuse`. "exact"
            makes steps of many answers by the forms for few, too.
        warm_max: finished answers whose keys and values are kept for that.
        drafts_max: tokens of an answer guessed from what was said before, per step
            (`llm.lookup`); 0 for none. They change no token, only how fast they come.
    """

    weights: str = "auto"
    threads: int = 1
    sequences_max: int = 16
    context_max: int = 2048
    kv_mb: int = 0
    chunk: int = 256
    queue_max: int = 1024
    has_wide: bool = True
    reuse: str = "all"
    warm_max: int = 8
    drafts_max: int = 7


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that answers."""

    engine: Engine
    tokenizer: Tokenizer
    architecture: Architecture
    context: int
    size_bytes: int


def open_engine(
    path: Path,
    settings: EngineSettings,
    report: Callable[[BaseException], None] = lambda error: None,
) -> Opened:
    """Load the model and start its engine.

    Raises:
        SetupError: the files or the settings cannot be used.
    """
    if settings.weights not in FORMS:
        raise SetupError(f"weights = {settings.weights!r}: expected one of {', '.join(FORMS)}")
    # One thread here, all of them only in the engine's own: OpenMP keeps a team for each thread
    # that computes in parallel, and once its teams outnumber the cores it lets them sleep between
    # products. Waking them doubles the time of a step with one row (4.7 ms to 9.7 on two cores).
    use_threads(1)
    checkpoint = open_checkpoint(path)
    shape = checkpoint.architecture
    tokenizer = open_tokenizer(path, checkpoint.metadata, shape.end_tokens)
    context = min(settings.context_max, shape.context)
    stage, ends = _load(checkpoint, settings, cap=blocks(context) * BLOCK)
    del checkpoint  # and with it the mapped file
    _give_back_heap()
    ledger = ledger_of(settings, context, _budget(settings, stage, context))
    engine = Engine(
        Whole(stage, ends),
        Scheduler(
            ledger,
            chunk=settings.chunk,
            queue_max=settings.queue_max,
            reuse=reuse_of(settings),
            drafts_max=settings.drafts_max,
        ),
        tokenizer.decode,
        prepare=lambda: _prepare(stage, ends, settings.threads),
        report=report,
    )
    return Opened(engine, tokenizer, shape, context, stage.size_bytes() + ends.size_bytes())


def reuse_of(settings: EngineSettings) -> Reuse:
    """Return how much is used again.

    Raises:
        SetupError: there is no such word.
    """
    try:
        return Reuse(settings.reuse)
    except ValueError:
        known = ", ".join(each.value for each in Reuse)
        raise SetupError(f"reuse = {settings.reuse!r}: expected one of {known}") from None


def is_steady(settings: EngineSettings) -> bool:
    """Return whether a step of many sequences is to be rounded as one of few is."""
    return reuse_of(settings) is Reuse.EXACT


def ledger_of(settings: EngineSettings, context: int, budget: int) -> Ledger:
    """Return the ledger of an engine with so many positions a sequence, and blocks in all."""
    warm_max = 0 if settings.reuse == Reuse.NONE.value else settings.warm_max
    return Ledger(settings.sequences_max, context, budget, min(warm_max, settings.sequences_max))


def read_stage(path: Path, order: Order, known: Mapping[int, Layer]) -> Stage:
    """Return the layers that a head orders; those known are not read again.

    Raises:
        SetupError: the files cannot be used.
        BadRequest: the model is not the one that the head has.
    """
    use_threads(1)  # as above: all of them only in the thread that computes
    checkpoint = open_checkpoint(path)
    shape, limits = checkpoint.architecture, order.limits
    if order.last > shape.layers or limits.width != shape.width or limits.cap % BLOCK:
        raise BadRequest(
            f"layers to {order.last} of width {limits.width}; the model here has {shape.layers}"
            f" of {shape.width}"
        )
    stage = Stage(
        checkpoint,
        order.first,
        order.last,
        form=order.form,
        slots=limits.slots,
        cap=limits.cap,
        has_wide=order.has_wide,
        is_steady=order.is_steady,
        known=known,
    )
    del checkpoint
    _warm_stage(stage)
    _give_back_heap()
    return stage


def _load(checkpoint: Checkpoint, settings: EngineSettings, cap: int) -> tuple[Stage, Ends]:
    stage = Stage(
        checkpoint,
        0,
        checkpoint.architecture.layers,
        form=settings.weights,
        slots=settings.sequences_max,
        cap=cap,
        has_wide=settings.has_wide,
        is_steady=is_steady(settings),
    )
    return stage, Ends(checkpoint, form=settings.weights)


def _budget(settings: EngineSettings, stage: Stage, context: int) -> int:
    """Return how many blocks of keys and values may be held."""
    most = settings.sequences_max * blocks(context)
    if not settings.kv_mb:
        return most
    given = (settings.kv_mb << 20) // (stage.cache.position_bytes * BLOCK)
    if given < 1:
        raise SetupError(f"kv_mb = {settings.kv_mb} holds less than {BLOCK} positions")
    return min(most, given)


def _prepare(stage: Stage, ends: Ends, threads: int) -> None:
    use_threads(threads)
    _warm(stage, ends)


@torch.inference_mode()
def _warm(stage: Stage, ends: Ends) -> None:
    """Run both ways through the model once, so that the first question finds it warm."""
    count = min(WARM_TOKENS, stage.cache.cap - 1)
    x = stage.prefill(ends.embed([0] * count, range(count)), 0, 0)
    token = ends.best(x[-1:])
    ends.best(stage.decode(ends.embed(token, [count]), stage.rows([0], [count])))


@torch.inference_mode()
def _warm_stage(stage: Stage) -> None:
    count = min(WARM_TOKENS, stage.cache.cap - 1)
    x = stage.prefill(torch.zeros(count, stage.architecture.width), 0, 0)
    stage.decode(x[-1:], stage.rows([0], [count]))


def _give_back_heap() -> None:
    """Return to the system what reading left in the heap: 160 MB for SmolLM2, of 660."""
    name = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(name), "malloc_trim", None) if name else None
    if trim is not None:  # glibc has it, other C libraries need not
        trim(0)

"""The mesh's own engine with one setting of `reuse`, asked for times to the first token."""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.workers import answer
from mesh.llm.ask import Ask
from mesh.llm.engine import Engine
from mesh.llm.loading import EngineSettings, open_engine

CHANCE = random.Random(1)  # never the same tokens twice, but for what is meant to be shared
SYSTEM, QUESTION, ANSWER, TURNS = 300, 40, 8, 3


def _tokens(count: int) -> list[int]:
    return [CHANCE.randrange(1000, 20000) for _ in range(count)]


async def _first(engine: Engine, prompt: list[int], tokens: int = 1) -> tuple[float, list[int]]:
    """Return milliseconds to the first token, and all of them."""
    begun_s, first_s, said = time.perf_counter(), 0.0, []
    async for part in engine.submit(Ask(tuple(prompt), tokens_max=tokens)):
        first_s = first_s or time.perf_counter() - begun_s
        said += [choice.token for choice in part.choices]
    return first_s * 1e3, said


async def later_turns(engine: Engine) -> float:
    """Return milliseconds to the first token of a conversation's answers after its first: mean."""
    told, took_ms = _tokens(SYSTEM), []
    for _ in range(TURNS):
        told += _tokens(QUESTION)
        first_ms, said = await _first(engine, told, ANSWER)
        took_ms.append(first_ms)
        told += said
    return statistics.mean(took_ms[1:])


async def shared_system(engine: Engine) -> float:
    """Return milliseconds to the first token where the system prompt was read for another."""
    system = _tokens(SYSTEM)
    await _first(engine, system + _tokens(QUESTION), ANSWER)
    return (await _first(engine, system + _tokens(QUESTION)))[0]


async def four_answers(engine: Engine) -> float:
    """Return milliseconds until four answers to one prompt have begun."""
    prompt = _tokens(SYSTEM + QUESTION)
    return max(ms for ms, _ in await asyncio.gather(*(_first(engine, prompt) for _ in range(4))))


async def nothing_shared(engine: Engine) -> float:
    """Return milliseconds to the first token of a prompt that nobody knows."""
    return (await _first(engine, _tokens(SYSTEM + QUESTION)))[0]


async def decoding(engine: Engine) -> float:
    """Return milliseconds of 8 answers of 32 tokens at once whose prompts share nothing."""
    begun_s = time.perf_counter()
    await asyncio.gather(*(_first(engine, _tokens(80), 32) for _ in range(8)))
    return (time.perf_counter() - begun_s) * 1e3


WORK: dict[str, Callable[[Engine], Awaitable[float]]] = {
    work.__name__: work
    for work in (later_turns, shared_system, four_answers, nothing_shared, decoding)
}


def main() -> None:
    """Serve the GGUF file named."""
    path, threads, reuse = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    opened = open_engine(path, EngineSettings(threads=threads, reuse=reuse))

    async def run(what: str) -> float:
        return await WORK[what](opened.engine)

    answer(lambda what: {"ms": asyncio.run(run(what))})
    opened.engine.close()


if __name__ == "__main__":
    main()

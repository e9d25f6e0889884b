"""The mesh's own engine: scheduler, thread, text and streams included."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

from bench.workers import answer
from mesh.llm.engine import Ask, Engine
from mesh.llm.loading import EngineSettings, open_engine

CHANCE = random.Random(1)  # never the same prompt twice: its beginning would be known already


async def _decode(engine: Engine, rows: int, prompt: int, tokens: int) -> dict[str, float]:
    """Return tokens per second from when all have begun until all have ended."""
    first: dict[int, float] = {}
    came: list[float] = []

    async def read(at: int) -> None:
        ids = tuple(CHANCE.randrange(1000, 20000) for _ in range(prompt))
        async for said in engine.submit(Ask(ids, tokens_max=tokens)):
            now_s = time.perf_counter()
            first.setdefault(at, now_s)
            came.extend([now_s] * len(said.choices))

    await asyncio.gather(*(read(at) for at in range(rows)))
    begun_s = max(first.values())
    after = [at_s for at_s in came if at_s > begun_s]
    return {"tokens_per_s": len(after) / (max(after) - begun_s)}


async def _prefill(engine: Engine, prompt: int) -> dict[str, float]:
    ids = tuple(CHANCE.randrange(1000, 20000) for _ in range(prompt))
    begun_s = time.perf_counter()
    async for _ in engine.submit(Ask(ids, tokens_max=1)):
        pass
    return {"tokens_per_s": prompt / (time.perf_counter() - begun_s)}


def main() -> None:
    """Serve the GGUF file named."""
    path, threads = Path(sys.argv[1]), int(sys.argv[2])
    # Engine against engine: what drafts save is `bench.drafts`'s figure.
    opened = open_engine(path, EngineSettings(threads=threads, drafts_max=0))

    def measure(what: str, rows: int = 1, prompt: int = 32, tokens: int = 128) -> dict[str, float]:
        engine = opened.engine
        if what == "prefill":
            return asyncio.run(_prefill(engine, prompt))
        return asyncio.run(_decode(engine, rows, prompt, tokens))

    answer(measure)
    opened.engine.close()


if __name__ == "__main__":
    main()

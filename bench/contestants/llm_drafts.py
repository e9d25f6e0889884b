"""The mesh's own engine with so many drafts at most, asked for tokens per second of answers."""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.servers import ROOT
from bench.workers import answer
from mesh.llm.ask import Ask
from mesh.llm.loading import EngineSettings, Opened, open_engine
from mesh.models.sampling import Sampling

SOURCES, TOKENS = 3, 128
TASK = "What do the sources say? Answer with what they say, in their words."


def _paragraphs() -> list[str]:
    """Return paragraphs of prose from the project's own pages, in an order by chance."""
    pages = [page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))]
    parts = [" ".join(part.split()) for page in pages for part in page.split("\n\n")]
    prose = [part for part in parts if 200 < len(part) < 900 and re.match("[A-Z]", part)]
    random.Random(1).shuffle(prose)
    return prose


def _sourced(opened: Opened, number: int) -> tuple[int, ...]:
    """Return a question with other sources for each number."""
    prose = _paragraphs()
    chosen = [prose[(number * SOURCES + at) % len(prose)] for at in range(SOURCES)]
    sources = "\n\n".join(f"[{at}] {text}" for at, text in enumerate(chosen, 1))
    said = [{"role": "user", "content": f"Sources:\n{sources}\n\nQuestion: {TASK}"}]
    tokenizer = opened.tokenizer
    return tuple(tokenizer.encode(tokenizer.chat(said), is_chat=True))


def _random(opened: Opened, number: int) -> tuple[int, ...]:
    """Return tokens by chance, which promise nothing."""
    draw = random.Random(number)
    return tuple(draw.randrange(1000, 20000) for _ in range(32))


PROMPTS: dict[str, Callable[[Opened, int], tuple[int, ...]]] = {
    "sources": _sourced,
    "random": _random,
}


async def _answer(opened: Opened, asks: list[Ask]) -> dict[str, object]:
    """Return tokens per second from when all have begun, and a figure of what was said."""
    first: dict[int, float] = {}
    came: list[float] = []
    told: list[list[int]] = [[] for _ in asks]

    async def read(at: int) -> None:
        async for said in opened.engine.submit(asks[at]):
            now_s = time.perf_counter()
            first.setdefault(at, now_s)
            came.extend([now_s] * len(said.choices))
            told[at] += [choice.token for choice in said.choices]

    await asyncio.gather(*(read(at) for at in range(len(asks))))
    begun_s = max(first.values())
    after = [at_s for at_s in came if at_s > begun_s]
    return {"tokens_per_s": len(after) / (max(after) - begun_s), "said": told}


def main() -> None:
    """Serve the GGUF file named."""
    path, threads, drafts_max = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # "exact": what prompts share is else read in pieces that depend on who came when, and rounds.
    settings = EngineSettings(threads=threads, drafts_max=drafts_max, reuse="exact")
    opened = open_engine(path, settings)

    def measure(what: str, rows: int, temperature: float, turn: int) -> dict[str, object]:
        asks = [
            Ask(
                PROMPTS[what](opened, turn * rows + at),
                tokens_max=TOKENS,
                sampling=Sampling(temperature=temperature, seed=at),
            )
            for at in range(rows)
        ]
        return asyncio.run(_answer(opened, asks))

    answer(measure)
    opened.engine.close()


if __name__ == "__main__":
    main()

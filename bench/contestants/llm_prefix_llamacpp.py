"""llama.cpp asked for times to the first token; its sequences keep and share what they have read.

What a chat has read stays in its sequence, and what is shared is copied from one sequence to
another, which its unified cache does without moving a byte. Imports nothing of the mesh.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable

import llama_cpp as llama

from bench.contestants.llm_llamacpp import Model
from bench.workers import answer

CHANCE = random.Random(1)  # as the mesh's own contestant draws
SYSTEM, QUESTION, ANSWER, TURNS = 300, 40, 8, 3


def _tokens(count: int) -> list[int]:
    return [CHANCE.randrange(1000, 20000) for _ in range(count)]


def _read(model: Model, ids: list[int], start: int, sequence: int = 0) -> int:
    """Read tokens from a position on; return the first token of the answer."""
    last = len(ids) - 1
    model.run([(id_, start + at, sequence, at == last) for at, id_ in enumerate(ids)])
    return model.best(last)


def _share(model: Model, stop: int, sequences: range) -> None:
    memory = llama.llama_get_memory(model.context)
    for sequence in sequences:
        llama.llama_memory_seq_cp(memory, 0, sequence, 0, stop)


def later_turns(model: Model) -> float:
    """Return milliseconds to the first token of a conversation's answers after its first: mean."""
    new, start, took_ms = _tokens(SYSTEM), 0, []
    for _ in range(TURNS):
        new += _tokens(QUESTION)
        begun_s = time.perf_counter()
        token = _read(model, new, start)
        took_ms.append((time.perf_counter() - begun_s) * 1e3)
        start += len(new)
        for _ in range(ANSWER - 1):
            token, start = _read(model, [token], start), start + 1
        new = [token]  # said, and not yet read
    return statistics.mean(took_ms[1:])


def shared_system(model: Model) -> float:
    """Return milliseconds to the first token where the system prompt was read for another."""
    _read(model, _tokens(SYSTEM), 0)
    begun_s = time.perf_counter()
    _share(model, SYSTEM, range(1, 2))
    _read(model, _tokens(QUESTION), SYSTEM, 1)
    return (time.perf_counter() - begun_s) * 1e3


def four_answers(model: Model) -> float:
    """Return milliseconds until four answers to one prompt have begun."""
    begun_s = time.perf_counter()
    _read(model, _tokens(SYSTEM + QUESTION), 0)  # its odds give each of the four its token
    _share(model, SYSTEM + QUESTION, range(1, 4))
    return (time.perf_counter() - begun_s) * 1e3


def nothing_shared(model: Model) -> float:
    """Return milliseconds to the first token of a prompt that nobody knows."""
    begun_s = time.perf_counter()
    _read(model, _tokens(SYSTEM + QUESTION), 0)
    return (time.perf_counter() - begun_s) * 1e3


def decoding(model: Model) -> float:
    """Return milliseconds of 8 answers of 32 tokens at once whose prompts share nothing."""
    begun_s = time.perf_counter()
    last = [_read(model, _tokens(80), 0, row) for row in range(8)]
    for step in range(31):
        model.run([(last[row], 80 + step, row, True) for row in range(8)])
        last = [model.best(row) for row in range(8)]
    return (time.perf_counter() - begun_s) * 1e3


WORK: dict[str, Callable[[Model], float]] = {
    work.__name__: work
    for work in (later_turns, shared_system, four_answers, nothing_shared, decoding)
}


def main() -> None:
    """Serve the GGUF file named."""
    model = Model(sys.argv[1], int(sys.argv[2]))

    def measure(what: str) -> dict[str, float]:
        model.clear()
        return {"ms": WORK[what](model)}

    answer(measure)


if __name__ == "__main__":
    main()

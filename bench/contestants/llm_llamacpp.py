"""llama.cpp through llama-cpp-python's low-level batch calls; imports nothing of the mesh."""

from __future__ import annotations

import ctypes
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import llama_cpp as llama
import numpy as np

from bench.workers import answer

CONTEXT = 16 * 512


class Model:
    """A loaded model with room for sixteen sequences."""

    def __init__(self, path: str, threads: int, parameters: Any = None) -> None:
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(
            path.encode(), parameters or llama.llama_model_default_params()
        )
        wishes = llama.llama_context_default_params()
        wishes.n_ctx, wishes.n_batch, wishes.n_ubatch = CONTEXT, 512, 512
        wishes.n_seq_max = 16
        wishes.kv_unified = True  # as its own batched benchmark prefers; the other way is slower
        wishes.n_threads = wishes.n_threads_batch = threads
        self.context = llama.llama_init_from_model(self.model, wishes)
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.batch = llama.llama_batch_init(512, 0, 16)

    def clear(self) -> None:
        """Forget every sequence."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def run(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """Compute (token, position, sequence, wants logits) entries."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for at, (token, position, sequence, wants) in enumerate(entries):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            batch.logits[at] = wants
        if llama.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")

    def best(self, at: int) -> int:
        """Return the most likely token after an entry."""
        logits = llama.llama_get_logits_ith(self.context, at)
        array = np.ctypeslib.as_array(
            ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), shape=(self.vocabulary,)
        )
        return int(array.argmax())


def measuring(model: Model) -> Callable[..., dict[str, float]]:
    """Return what measures a model."""

    def measure(what: str, rows: int = 1, prompt: int = 32, tokens: int = 128) -> dict[str, float]:
        model.clear()
        if what == "prefill":
            return prefill(prompt)
        chance = random.Random(rows)
        last = []
        for row in range(rows):
            ids = [chance.randrange(1000, 20000) for _ in range(prompt)]
            model.run([(ids[at], at, row, at == prompt - 1) for at in range(prompt)])
            last.append(model.best(prompt - 1))
        begun_s = time.perf_counter()
        for step in range(tokens - 1):
            model.run([(last[row], prompt + step, row, True) for row in range(rows)])
            last = [model.best(row) for row in range(rows)]
        return {"tokens_per_s": rows * (tokens - 1) / (time.perf_counter() - begun_s)}

    def prefill(prompt: int) -> dict[str, float]:
        chance = random.Random(prompt)
        ids = [chance.randrange(1000, 20000) for _ in range(prompt)]
        begun_s = time.perf_counter()
        model.run([(ids[at], at, 0, at == prompt - 1) for at in range(prompt)])
        model.best(prompt - 1)
        return {"tokens_per_s": prompt / (time.perf_counter() - begun_s)}

    return measure


def main() -> None:
    """Serve the GGUF file named."""
    answer(measuring(Model(sys.argv[1], int(sys.argv[2]))))


if __name__ == "__main__":
    main()

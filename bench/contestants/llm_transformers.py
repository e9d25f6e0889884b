"""`transformers` in bf16, from the same file dequantised; imports nothing of the mesh."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from bench.workers import answer


def main() -> None:
    """Serve the GGUF file named."""
    path, threads = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.bfloat16
    ).eval()

    @torch.inference_mode()
    def measure(what: str, rows: int = 1, prompt: int = 32, tokens: int = 128) -> dict[str, float]:
        chance = random.Random(rows)
        ids = torch.tensor(
            [[chance.randrange(1000, 20000) for _ in range(prompt)] for _ in range(rows)]
        )
        begun_s = time.perf_counter()
        found = model(ids, use_cache=True, logits_to_keep=1)
        last = found.logits[:, -1].argmax(-1, keepdim=True)
        if what == "prefill":
            return {"tokens_per_s": prompt / (time.perf_counter() - begun_s)}
        begun_s = time.perf_counter()
        for _ in range(tokens - 1):
            found = model(last, past_key_values=found.past_key_values, use_cache=True)
            last = found.logits[:, -1].argmax(-1, keepdim=True)
        return {"tokens_per_s": rows * (tokens - 1) / (time.perf_counter() - begun_s)}

    answer(measure)


if __name__ == "__main__":
    main()

"""`transformers` in bf16, in the shape of the same model; imports nothing of the mesh.

Its weights are random: speed does not depend on them, and its own reading of GGUF files needs
a package more.
"""

from __future__ import annotations

import random
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.workers import answer

SHAPE = {  # of SmolLM2-135M
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
}


def main() -> None:
    """Serve; the file named is only a shape."""
    torch.set_num_threads(int(sys.argv[2]))
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).eval()

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

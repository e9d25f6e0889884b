"""Embeds a file of texts whenever a line of JSON asks for it, and says how long it took.

Shell: `python -m bench.contestants.embedders KIND MODEL TEXTS`, in the environment of KIND.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Encode = Callable[[list[str], int], np.ndarray]


def mesh_encoder(folder: str, precision: str) -> Encode:
    """Return the mesh's encoder, which forms its own batches."""
    from mesh.models.encoder import Encoder

    encoder = Encoder(Path(folder), precision)
    return lambda texts, _batch: encoder.encode(texts)


def sentence_transformers(folder: str, precision: str) -> Encode:
    """Return the peer's encoder, which sorts by length itself."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": precision})

    def encode(texts: list[str], batch: int) -> np.ndarray:
        found = model.encode(texts, batch_size=batch, show_progress_bar=False)
        return np.asarray(found, np.float32)

    return encode


def main(kind: str, folder: str, file: str) -> None:
    """Answer until the input ends."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    texts = json.loads(Path(file).read_text())
    opened = mesh_encoder if kind == "mesh" else sentence_transformers
    encoders: dict[str, Encode] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        precision = asked.get("precision", "float32")
        if precision not in encoders:
            encoders[precision] = opened(folder, precision)
            encoders[precision](texts[:64], 32)  # warm-up
        given = texts[:: max(1, len(texts) // asked["count"])] if "count" in asked else texts
        began_s, before_s = time.perf_counter(), time.process_time()
        vectors = encoders[precision](given, asked["batch"])
        seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - before_s
        if "save" in asked:
            np.save(asked["save"], vectors)
        print(json.dumps({"seconds": seconds, "cpu_s": cpu_s}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

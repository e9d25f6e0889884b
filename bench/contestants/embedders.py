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


def mesh_encoder(folder: str) -> Callable[[list[str], int], np.ndarray]:
    """Return the mesh's encoder; it forms its own batches."""
    from mesh.models.encoder import Encoder

    encoder = Encoder(Path(folder))
    return lambda texts, _batch: encoder.encode(texts)


def sentence_transformers(folder: str) -> Callable[[list[str], int], np.ndarray]:
    """Return the peer's encoder."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")

    def encode(texts: list[str], batch: int) -> np.ndarray:
        return model.encode(texts, batch_size=batch, show_progress_bar=False)

    return encode


def main(kind: str, folder: str, file: str) -> None:
    """Answer until the input ends."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    texts = json.loads(Path(file).read_text())
    encode = (mesh_encoder if kind == "mesh" else sentence_transformers)(folder)
    encode(texts[:64], 32)
    for line in sys.stdin:
        asked = json.loads(line)
        began_s = time.perf_counter()
        vectors = encode(texts, asked["batch"])
        seconds = time.perf_counter() - began_s
        if "save" in asked:
            np.save(asked["save"], vectors)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

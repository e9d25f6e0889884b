"""Sets how many threads torch and faiss compute with on the calling thread's lane.

Shell. Both keep the number per calling thread (OpenMP), so each role says it on its own lane.
"""

from __future__ import annotations

import os
import sys

SPINS = 10_000  # some tenths of a millisecond: longer than what lies between two products


def use_threads(count: int) -> None:
    """Compute with this many threads from here on; libraries not yet imported are left alone."""
    assert count > 0
    # Imported here, not looked up: another thread may be in the middle of importing them.
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)
    if "faiss" in sys.modules:
        import faiss

        faiss.omp_set_num_threads(count)


def rest_soon() -> None:
    """Let OpenMP's threads sleep soon after a product; without effect once torch is there.

    By default they go on spinning for milliseconds, on cores that other nodes of a split model
    on this machine want as soon as this one has done its part. They still spin from one
    product of a step to the next, which is some microseconds: to wake them each time doubles
    the time of a step.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))

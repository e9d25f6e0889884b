"""Sets how many threads torch and faiss compute with on the calling thread's lane.

Shell. Both keep the number per calling thread (OpenMP), so each role says it on its own lane.
"""

from __future__ import annotations

import sys


def use_threads(count: int) -> None:
    """Compute with this many threads from here on; libraries not yet imported are left alone."""
    assert count > 0
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)
    if faiss := sys.modules.get("faiss"):
        faiss.omp_set_num_threads(count)

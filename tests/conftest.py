"""What every test shares: one compute thread, reproducible properties, no network."""

from __future__ import annotations

import os

# Before any library reads them: several test processes share few cores, and nothing may fetch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "mesh",
    deadline=None,  # other processes share the machine; the law is what counts, not one slow draw
    print_blob=True,  # a failure prints what reproduces it
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mesh")

"""How many threads torch computes with may be said while it is being imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

RACE = """
import sys, threading
importer = threading.Thread(target=__import__, args=("torch",))
importer.start()
from mesh.models.threads import use_threads
while "torch" not in sys.modules:
    pass
use_threads(1)
importer.join()
import torch
assert torch.get_num_threads() == 1
"""


@pytest.mark.slow
def test_they_are_set_once_it_is_there():
    """Two roles load at once: one imports torch, the other finds it half imported."""
    subprocess.run([sys.executable, "-c", RACE], check=True, timeout=50)

"""`import mesh` stays small and quick, and exports what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "faiss", "transformers", "numpy", "matplotlib", "tokenizers")
EXPORTS: tuple[str, ...] = ("Client",)
IMPORT_MS_MAX = 1500  # usually 100 to 300; the rest is for a busy machine


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["mesh", "mesh.node", "mesh.__main__"])
def test_import_loads_nothing_heavy(module):
    """Only the roles that need a model load what models need: an idle node stays small."""
    loaded = run_python(f"import {module}, sys; print([m for m in {HEAVY} if m in sys.modules])")
    assert "[]" == loaded


@pytest.mark.slow
def test_import_is_quick():
    """A command line that answers `--help` late feels broken."""
    code = "import time; t = time.perf_counter(); import mesh; print(time.perf_counter() - t)"
    assert float(run_python(code)) * 1000 < IMPORT_MS_MAX


def test_exports_are_pinned():
    """Fewer than ten names, changed only on purpose."""
    import mesh

    assert set(EXPORTS) == set(mesh.__all__)
    assert all(hasattr(mesh, name) for name in EXPORTS)

"""Runs the benches one after another and prints one report: `python -m bench [--all | NAME …]`.

Shell: each bench is a process of its own, so that none inherits another's state.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

from bench.report import RESULTS, progress

BENCHES = (
    "micro", "ring", "hop", "serving", "search", "embedding", "retrieval", "llm", "prefix", "split",
    "flood",
)  # fmt: skip
HERE = Path(__file__).parent


def what(name: str) -> str:
    """Return the first line of a bench's docstring, without importing it."""
    tree = ast.parse((HERE / f"{name}.py").read_text())
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def there() -> list[str]:
    """Return the benches that this checkout has."""
    return [name for name in BENCHES if (HERE / f"{name}.py").exists()]


def run(name: str) -> str:
    """Return a bench's section, or why there is none."""
    progress(f"{name}: {what(name)}")
    found = subprocess.run(
        [sys.executable, "-m", f"bench.{name}"], stdout=subprocess.PIPE, text=True, check=False
    )
    if found.returncode:
        return f"## {name}\n\nended with exit code {found.returncode}\n"
    return found.stdout if found.stdout.startswith("## ") else f"## {name}\n\n{found.stdout}"


def main() -> int:
    """List, or run those named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="run every bench")
    given = parser.parse_args()
    names = there() if given.all else given.names
    if unknown := set(names) - set(there()):
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(there())}")
    if not names:
        print("\n".join(f"{name:10} {what(name)}" for name in there()))
        return 0
    RESULTS.mkdir(exist_ok=True)
    report = "# Measured\n\n" + "\n".join(run(name) for name in names)
    (RESULTS / "report.md").write_text(report)
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the benches one after another and prints one report: `python -m bench [--all | NAME …]`.

    python -m bench --all       every bench, in under 25 minutes with all peers installed
    python -m bench --readme    the README's table, from the last run of each
    python -m bench --write     that and all sections, into docs/numbers.md; or of those named

Shell: each bench is a process of its own, so that none inherits another's state.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.readme import page, readme
from bench.report import RESULTS, progress

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "numbers.md"
BENCHES = {  # with the options of a run of all: fewer rounds than alone, so that it ends in time
    "micro": "--rounds 3",
    "ring": "",
    "hop": "--rounds 3",
    "serving": "--rounds 2 --seconds 1.5 --connections 1,32",
    "answers": "--requests 16",
    "infer": "--requests 500",
    "search": "--rounds 3",
    "embedding": "--rounds 3",
    "retrieval": "--rounds 3",
    "llm": "--rounds 3",
    "drafts": "--rounds 2",
    "prefix": "--rounds 1",
    "split": "--rounds 3 --rows 1,8",
    "flood": "--rounds 2",
}


def what(name: str) -> str:
    """Return the first line of a bench's docstring, without importing it."""
    tree = ast.parse((HERE / f"{name}.py").read_text())
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def there() -> list[str]:
    """Return the benches that this checkout has."""
    return [name for name in BENCHES if (HERE / f"{name}.py").exists()]


def run(name: str, options: Sequence[str] = ()) -> str:
    """Return a bench's section, or why there is none."""
    command = [sys.executable, "-m", f"bench.{name}", *options]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode and not found.stdout.startswith("## "):
        return f"## {name}\n\nended with exit code {found.returncode}\n"
    return found.stdout if found.stdout.startswith("## ") else f"## {name}\n\n{found.stdout}"


def report(names: Sequence[str], *, in_time: bool) -> str:
    """Run benches and return their sections, after the table of what they found."""
    began_s, sections = time.monotonic(), []
    for number, name in enumerate(names):
        bar = "#" * number + "." * (len(names) - number)
        minutes, seconds = divmod(int(time.monotonic() - began_s), 60)
        progress(f"[{bar}] {minutes}:{seconds:02} {name}: {what(name)}")
        sections.append(run(name, BENCHES[name].split() if in_time else ()))
    return "\n".join(["# Measured\n", readme(RESULTS), "", *sections])


def main() -> int:
    """List, or run those named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=what("__main__"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="run every bench")
    parser.add_argument("--readme", action="store_true", help="the table of the last run of each")
    parser.add_argument("--write", action="store_true", help="into docs/numbers.md, without a run")
    given = parser.parse_args()
    names = there() if given.all else given.names
    if unknown := set(names) - set(there()):
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(there())}")
    if given.readme:
        print(readme(RESULTS, names))
        return 0
    if given.write:
        PAGE.write_text(page(RESULTS, names or there()))
        return 0
    if not names:
        print("\n".join(f"{name:10} {what(name)}" for name in there()))
        return 0
    RESULTS.mkdir(exist_ok=True)
    found = report(names, in_time=given.all)
    (RESULTS / "report.md").write_text(found)
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

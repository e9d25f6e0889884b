"""Installs the packages of `requirements.lock` into the interpreter that runs this.

Shell: runs pip, turns its chatter into one line of progress, and shows all of it only
when it fails. Uses nothing but the standard library, because nothing else is there yet.

    .venv/bin/python -m tools.packages
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
PIP = [sys.executable, "-m", "pip", "install", "--progress-bar", "off", "--no-compile"]
INSTALLING = "installing them"
LINES_KEPT = 40  # of pip's output, shown when it fails


def install(lock: Path, *, is_terminal: bool) -> int:
    """Run pip on `lock` and return its exit status."""
    count = sum(1 for line in lock.read_text().splitlines() if line and line[0] != "#")
    told: list[str] = []
    seen = 0
    begin_s = time.monotonic()
    with subprocess.Popen(
        [*PIP, "--requirement", str(lock)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            told = [*told[1 - LINES_KEPT :], line]
            step = _step(line)
            seen += step not in ("", INSTALLING)
            if step:
                _show(f"{min(seen, count):3d}/{count}  {step}", seen, is_terminal=is_terminal)
    if is_terminal:
        print("\r\033[K", end="")
    if pip.returncode:
        sys.stderr.writelines(told)
        return pip.returncode
    print(f"           {count} packages in {time.monotonic() - begin_s:.0f} s")
    return 0


def _step(line: str) -> str:
    """Return what a line of pip's says about its progress, or an empty string."""
    match line.split():
        case ["Collecting" | "Processing", what, *_] | ["Requirement", _, _, what, *_]:
            return Path(what).name
        case ["Installing", *_]:
            return INSTALLING
    return ""


def _show(text: str, seen: int, *, is_terminal: bool) -> None:
    """Rewrite one line on a terminal; elsewhere print every 30th package and the last step."""
    if is_terminal:
        print(f"\r\033[K           {text[:66]}", end="", flush=True)
    elif seen % 30 == 0 or INSTALLING in text:
        print(f"           {text[:66]}", flush=True)


def main() -> int:
    """Install, and pass on pip's exit status."""
    argparse.ArgumentParser(
        prog="python -m tools.packages",
        description="Install the pinned packages into this interpreter's environment.",
        epilog="example: .venv/bin/python -m tools.packages",
    ).parse_args()
    return install(LOCK, is_terminal=sys.stdout.isatty())


if __name__ == "__main__":
    sys.exit(main())

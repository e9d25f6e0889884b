"""Pins every package that the project and its extras need into `requirements.lock`.

Shell: asks pip to resolve, without installing anything, and writes the answer.

    python -m tools.lock            # keep today's pins where they still fit
    python -m tools.lock --upgrade  # newest versions that fit
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCK = PROJECT / "requirements.lock"
HEAD = "# Every package that mesh and its extras need, pinned. Written by: python -m tools.lock\n"


def wanted() -> list[str]:
    """Return the requirements of the project and of all its extras."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return sorted({*project["dependencies"], *(one for extra in extras for one in extra)})


def pins(report: dict) -> list[str]:
    """Return pip's report as sorted `name==version` lines.

    A local suffix such as torch's `+cpu` names a build, not a version: without it the
    same file fits an index that carries other builds.
    """
    found = (one["metadata"] for one in report["install"])
    return sorted(
        f"{one['name'].lower().replace('_', '-')}=={one['version'].split('+')[0]}" for one in found
    )


def resolve(*, upgrade: bool) -> list[str]:
    """Ask pip which versions fit together."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        keep = [] if upgrade or not LOCK.exists() else ["--constraint", str(LOCK)]
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "--report", str(report), *keep, *wanted()]
        subprocess.run(command, check=True)
        return pins(json.loads(report.read_text()))


def main() -> int:
    """Write the lock file and say how many packages it pins."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.lock",
        description="Pin every package into requirements.lock.",
        epilog="example: python -m tools.lock --upgrade",
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    found = resolve(upgrade=parser.parse_args().upgrade)
    LOCK.write_text(HEAD + "\n".join(found) + "\n")
    print(f"{LOCK.name}: {len(found)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

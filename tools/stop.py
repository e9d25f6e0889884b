"""Ends a tool that Ctrl-C stops: with one line and the exit code of a shell, without a traceback.

Shell: around the `main` of each tool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

STOPPED = 130  # what shells say of a program that Ctrl-C ended


def run(main: Callable[[], int], stopped: str = "stopped") -> NoReturn:
    """Run a command line and end the process with its exit code.

    Args:
        main: returns the exit code.
        stopped: what a person is told who presses Ctrl-C.
    """
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        sys.exit(STOPPED)

"""The command line: starts one node, or says what is wrong with its settings.

Shell. The one place that turns errors into exit codes: 0 after an orderly end,
78 for settings that cannot work.

    python -m mesh --config config/n0.toml
    python -m mesh --config config/n0.toml --check
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mesh.errors import EXIT_SETUP, SetupError

_EXAMPLE = """\
example:
  python -m mesh --config config/n0.toml
  python -m mesh --config config/n0.toml --check
  MESH__LISTEN__HTTP=0.0.0.0:9000 python -m mesh --config config/n0.toml --show
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    if not __debug__:
        # Asserts guard the machines' invariants; a node without them could go on wrongly.
        _say("mesh does not run under python -O: its asserts are part of it")
        return EXIT_SETUP
    options = _parser().parse_args(arguments)
    # NumPy reads it when it is imported. Its threads spin while they wait, against the loop and
    # every other role: on two busy cores a product of 0.1 ms took 40.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return _run(options)
    except BrokenPipeError:  # `--show | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        return 0
    except SetupError as error:
        _say(f"mesh cannot start, {len(error.problems)} problem(s):")
        for problem in error.problems:
            _say(f"  {problem}")
        return EXIT_SETUP


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mesh",
        description="Run one node of a mesh.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="node.toml of this machine")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field, e.g. listen.http=127.0.0.1:9000; may be repeated",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="check both files, look for models, then exit"
    )
    what.add_argument(
        "--show", action="store_true", help="print each effective value with its origin, then exit"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from mesh.roles import custom
    from mesh.settings.absent import absent
    from mesh.settings.exposure import exposed
    from mesh.settings.load import load, render

    settings = load(options.config, environ=os.environ, overrides=options.set, kind_of=custom.find)
    if options.check:
        problems, notes = absent(settings)
        for note in notes:
            print(f"note: {note}")  # noqa: T201
        if problems:
            raise SetupError(*problems)
        print(f"{options.config} and {settings.node.topology} are in order")  # noqa: T201
        return 0
    if options.show:
        print("\n".join(render(settings)), flush=True)  # noqa: T201
        return 0

    import uvloop

    from mesh.node import Node
    from mesh.observe import logs

    logs.configure(settings.node.log.level)
    for what in exposed(settings.node):
        logs.named("mesh.settings").warning("node.exposed", what=what)
    gc.freeze()  # what start-up made lives for ever: the collector need not look at it again
    # Requests leave next to no cycles behind. At the default of 700 the collector took a tenth of
    # a small request's time, at 5000 a hundredth; more gains nothing.
    gc.set_threshold(5000, 20, 20)
    uvloop.run(Node(settings).run())
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def _leave(code: int) -> NoReturn:
    """End the process at once, with everything of ours closed and written.

    torch's own destructors may abort a process whose roles computed in threads: an
    orderly end would then look like a crash to whoever started it.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())

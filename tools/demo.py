"""Shows the mesh at its main job: three nodes answer questions, with sources and times.

Shell: starts the nodes of `config/`, asks, prints what comes back as it comes, stops them.
Nothing here knows an answer: every word between the rules comes from the nodes.

    python -m tools.demo
    python -m tools.demo "How do I sort a list of dictionaries by one key?"
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Table

from mesh.client import Client
from mesh.errors import MeshError
from tools import fleet
from tools.fleet import Node, NodeDied

QUESTIONS = (
    "How do I copy a whole directory tree?",
    "How do I encode bytes as base64?",
    "How do I count how often each word occurs?",
)
FOLDER = fleet.PROJECT / "var" / "demo"
ANSWER_S_MAX = 120.0
INDENT = 4
INDENT_MAX = 24  # of a line of code in an answer


class Typewriter:
    """Prints text as it comes, broken between words; lines and their indents stay."""

    def __init__(self, out: IO[str], width: int) -> None:
        self._out = out
        self._width = width
        self._column = 0
        self._gap = ""
        self._word = ""

    def write(self, text: str) -> None:
        """Print what is complete of `text`; the word at its end waits for its rest."""
        for sign in text:
            if sign.isspace():
                self._put()
                self._gap += sign
            else:
                self._word += sign
        self._out.flush()

    def end(self) -> None:
        """Print what is left, and end the line."""
        self._put()
        self._out.write("\n")
        self._out.flush()

    def _put(self) -> None:
        """Print the waiting word, after its gap or on a line of its own."""
        if not self._word:
            return
        lead = " "
        is_new_line = "\n" in self._gap or self._column + 1 + len(self._word) > self._width
        if not self._column or is_new_line:
            indent = self._gap.rpartition("\n")[2] if "\n" in self._gap else ""
            lead = " " * INDENT + indent[:INDENT_MAX]
            self._out.write("\n" if self._column else "")
            self._column = 0
        self._out.write(lead + self._word)
        self._column += len(lead) + len(self._word)
        self._gap = self._word = ""


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo",
        description="Start three nodes on this machine and ask them questions.",
        epilog='example: python -m tools.demo "How do I read a CSV file row by row?"',
    )
    parser.add_argument("question", nargs="*", help="what to ask instead of the demo's questions")
    parser.add_argument(
        "--config", type=Path, default=fleet.PROJECT / "config", help="folder of n0.toml …"
    )
    chosen = parser.parse_args()
    configs = sorted(chosen.config.glob("n[0-9].toml"))
    if not configs:
        parser.error(f"no n0.toml, n1.toml … in {chosen.config}")
    console = Console(highlight=False)
    try:
        return asyncio.run(show(console, configs, chosen.question or QUESTIONS))
    except (NodeDied, MeshError, TimeoutError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0


async def show(console: Console, configs: Sequence[Path], questions: Sequence[str]) -> int:
    """Start the nodes, ask the questions, and go on until somebody has had enough.

    Raises:
        NodeDied: a node ended by itself.
        MeshError: a question was not answered.
        TimeoutError: the nodes do not become ready.
    """
    _end_on_signals()
    nodes, taken = fleet.nodes_of(configs, FOLDER)
    if taken:
        console.print(
            f"In use already: {', '.join(taken)}. This demo takes other ports.", style="yellow"
        )
    async with fleet.running(nodes):
        await _wait_ready(console, nodes)
        async with Client([nodes[0].url], deadline_s=ANSWER_S_MAX) as mesh:
            await _serve(console, mesh, nodes, questions)
        with _status(console, "stopping the nodes"):
            await fleet.stop(nodes)
    return 0


async def _serve(
    console: Console, mesh: Client, nodes: Sequence[Node], questions: Sequence[str]
) -> None:
    """Ask the questions, then those that a person types."""
    await _introduce(console, mesh)
    for question in questions:
        await _ask(console, mesh, nodes, question)
    console.print(f"The mesh answers at [bold]{nodes[0].url}[/] (console, API: /docs).")
    if sys.stdin.isatty():
        console.print("Type a question, or Ctrl-C to stop.\n")
        await _converse(console, mesh, nodes)


def _end_on_signals() -> None:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does: with its nodes stopped."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _status(console: Console, text: str) -> contextlib.AbstractContextManager[Status | None]:
    """Show that something goes on, where a terminal can show it."""
    if console.is_terminal:
        return console.status(text)
    return contextlib.nullcontext()


async def _wait_ready(console: Console, nodes: Sequence[Node]) -> None:
    """Show each node's way until all are ready."""
    console.print(f"Starting {len(nodes)} nodes; their logs are in {_short(FOLDER)}/")
    told: dict[str, str] = {}
    with _status(console, "starting") as status:

        def look() -> None:
            for node in nodes:
                if status is None and told.get(node.name) != node.state:
                    console.print(f"  {node.name}: {node.state}", markup=False)
                told[node.name] = node.state
            if status is not None:
                status.update("   ".join(f"{one.name}: {one.state}" for one in nodes))

        await fleet.wait_ready(nodes, look)


async def _introduce(console: Console, mesh: Client) -> None:
    """Print which node does what, as the mesh itself says."""
    members = (await mesh.get("/v1/members"))["members"]
    roles = (await mesh.get("/v1/roles"))["roles"]
    for member in sorted(members, key=lambda one: one["name"]):
        name = member["name"]
        own = [role["name"] for role in roles if name in (role["nodes"] or role["serving"])]
        console.print(f"  [bold]{name}[/]  http://{member['http']}  {', '.join(own)}")
    console.print()


async def _ask(console: Console, mesh: Client, nodes: Sequence[Node], question: str) -> None:
    """Ask one question and print everything that comes, as it comes.

    Raises:
        MeshError: the mesh had no answer.
        NodeDied: a node ended by itself meanwhile.
    """
    console.rule(f"[bold]{_plain(question)}[/]", align="left", characters="─")
    death = asyncio.create_task(fleet.wait_death(nodes))
    answering = asyncio.create_task(_print_answer(console, mesh, question))
    try:
        await asyncio.wait({death, answering}, return_when=asyncio.FIRST_COMPLETED)
        if death.done():
            death.result()
        await answering
    finally:
        for task in (death, answering):
            task.cancel()
        await asyncio.gather(death, answering, return_exceptions=True)


async def _print_answer(console: Console, mesh: Client, question: str) -> None:
    """Print one answer."""
    typewriter = Typewriter(console.file, console.width)
    wrote = False
    async for event in mesh.stream("ask", query=question):
        if event.name == "field" and event.data["name"] == "sources":
            _print_sources(console, event.data["value"])
        elif event.name == "token":
            typewriter.write(event.data["text"])
            wrote = True
        elif event.name == "done":
            if not wrote:
                typewriter.write(str(event.data["answer"]))
            typewriter.end()
            _print_end(console, event.data)


def _print_sources(console: Console, sources: Sequence[dict[str, Any]]) -> None:
    for number, source in enumerate(sources, 1):
        first = " ".join(str(source.get("content", "")).split())
        room = max(10, console.width - len(source["title"]) - 16)
        text = first if len(first) <= room else first[: room - 1] + "…"
        console.print(f"  [cyan]{number} {_plain(source['title'])}[/]  [dim]{_plain(text)}[/]")
    console.print()


def _print_end(console: Console, done: dict[str, Any]) -> None:
    """Print the verdicts, and where the time went."""
    is_toxic = str(done.get("is_toxic")).lower() == "true"
    safety = "[red]toxic[/]" if is_toxic else "[green]not toxic[/]"
    console.print(f"\n  sentiment [bold]{done.get('sentiment')}[/]   safety {safety}")
    trace = done["trace"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("  stage", "node", "waited ms", "computed ms", "network ms"):
        table.add_column(title, justify="right" if title.endswith("ms") else "left")
    for stage in trace["stages"]:
        times = [f"{stage[key] or 0.0:.1f}" for key in ("queued_ms", "ran_ms", "network_ms")]
        table.add_row(f"  {stage['name']}", stage["node"], *times)
    table.add_row("  [bold]total[/]", "", "", f"[bold]{trace['total_ms']:.1f}[/]", "")
    console.print(table)


async def _converse(console: Console, mesh: Client, nodes: Sequence[Node]) -> None:
    """Answer what is typed, until the end of input or a node's death."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    death = asyncio.create_task(fleet.wait_death(nodes))
    try:
        while True:
            line = asyncio.create_task(lines.get())
            await asyncio.wait({line, death}, return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                line.cancel()
                death.result()
            if not (text := await line):
                return
            if text.strip():
                await _try_ask(console, mesh, nodes, text.strip())
    finally:
        death.cancel()
        loop.remove_reader(sys.stdin)


async def _try_ask(console: Console, mesh: Client, nodes: Sequence[Node], question: str) -> None:
    """Ask; an error is shown, and the conversation goes on."""
    try:
        await _ask(console, mesh, nodes, question)
    except MeshError as error:
        console.print(str(error), style="red", markup=False)


def _plain(text: str) -> str:
    """Return text in which nothing is markup."""
    return text.replace("[", r"\[")


def _short(path: Path) -> str:
    """Return a path as seen from here, where that is shorter."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


if __name__ == "__main__":
    sys.exit(main())

"""Breaks a mesh of real processes in every way that it should survive, under load, and counts.

Shell: prints one row per fault; exits 1 if a request failed, came twice, or waited too long,
130 when stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

from tools import place, stop
from tools.chaos.calm import CALMS
from tools.chaos.fabric import Fabric, NoFabric
from tools.chaos.faults import FAULTS, Fault
from tools.chaos.record import Row
from tools.chaos.scene import Scene, open_scene
from tools.chaos.strain import STRAINS, Finding

FAULT_S_MAX = 120.0
CALM_S_MAX = 300.0  # the demo starts, and its lag of the start is let go
HEAD = (
    f"{'fault':<16}{'requests':>9}{'failed':>7}{'twice':>6}{'rerun':>6}"
    f"{'p50 ms':>8}{'p99 ms':>8}{'pause ms':>9}{'recover s':>10}"
)
EXAMPLE = """\
examples:
  python -m tools.chaos
  python -m tools.chaos --only "kill -9" "cut off"
  python -m tools.chaos --loopback --short
  python -m tools.chaos --only demo --minutes 60
"""


def main() -> int:
    """Run the faults and return the exit code."""
    options = _options()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_run(options, Path(tempfile.mkdtemp(dir=options.folder))))
    with tempfile.TemporaryDirectory(prefix="mesh-chaos-") as folder:
        return asyncio.run(_run(options, Path(folder)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos",
        description="Break a mesh of real processes under load, and count what it loses.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [fault.name for fault in FAULTS] + [*CALMS, *STRAINS]
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="FAULT",
        help=f"these only, of: {'; '.join(names)}".replace("%", "%%"),
    )
    parser.add_argument("--short", action="store_true", help="the three that matter most")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="of calm work, in the scenes without a fault"
    )
    parser.add_argument("--loopback", action="store_true", help="make no network namespaces")
    parser.add_argument("--calls", type=float, default=40.0, help="whole answers per second")
    parser.add_argument("--streams", type=float, default=6.0, help="streamed answers per second")
    parser.add_argument("--seed", type=int, default=1, help="of loss and delay")
    parser.add_argument("--folder", type=Path, help="keep files and logs here")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    try:
        if options.json:
            place.check(options.json)
    except OSError as error:
        parser.error(str(error))
    return options


async def _run(options: argparse.Namespace, folder: Path) -> int:
    fabric = _fabric(options)
    rows: list[Row] = []
    problems: list[str] = []
    try:
        async with open_scene(
            folder, fabric, count=4, calls_s=options.calls, streams_s=options.streams
        ) as scene:
            scene.minutes = options.minutes
            print(HEAD)
            for fault in FAULTS:
                if _is_wanted(fault, options):
                    row = await _play(scene, fault)
                    if row is not None:
                        rows.append(row)
                        problems += _problems(fault, row)
            for name, strain in (CALMS | STRAINS).items():
                if name in (options.only or ()) or not (options.only or options.short):
                    async with asyncio.timeout(FAULT_S_MAX + CALM_S_MAX + 60.0 * options.minutes):
                        await scene.wait_whole()
                        findings = await strain(scene)
                    problems += [_show(finding) for finding in findings if not finding.holds]
                    for finding in findings:
                        print(_show(finding), flush=True)
    finally:
        if fabric is not None:
            fabric.close()
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _fabric(options: argparse.Namespace) -> Fabric | None:
    if options.loopback:
        return None
    try:
        return Fabric.open(4, Random(options.seed))
    except NoFabric as error:
        print(f"no network of our own here ({error}); on loopback, without cuts, loss and delay")
        return None


def _is_wanted(fault: Fault, options: argparse.Namespace) -> bool:
    if options.only:
        return fault.name in options.only
    return fault.is_short or not options.short


async def _play(scene: Scene, fault: Fault) -> Row | None:
    if fault.needs_fabric and scene.fabric is None:
        print(f"{fault.name:<16}   not run: needs network namespaces")
        return None

    async def act() -> None:
        await fault.act(scene)

    async with asyncio.timeout(FAULT_S_MAX):
        row = await scene.play(fault.name, act, scene.hosts if fault.is_door else None)
    print(
        f"{row.fault:<16}{row.requests:>9}{row.failed:>7}{row.doubled:>6}{row.again:>6}"
        f"{row.p50_ms:>8.1f}{row.p99_ms:>8.1f}{row.pause_ms:>9.0f}{row.recover_s:>10.2f}",
        flush=True,
    )
    return row


def _show(finding: Finding) -> str:
    bound = "at least" if finding.is_floor else "at most"
    return f"{finding.what:<48}{finding.found:>9.2f}   ({bound} {finding.limit:g})"


def _problems(fault: Fault, row: Row) -> Iterator[str]:
    if row.failed:
        yield f"{row.fault}: {row.failed} failed: {'; '.join(row.reasons[:5])}"
    if row.doubled:
        yield f"{row.fault}: {row.doubled} answers or pieces came twice or out of order"
    if row.recover_s > fault.recover_s_max:
        limit = fault.recover_s_max
        yield f"{row.fault}: recovered after {row.recover_s:.2f} s, expected at most {limit:g} s"


if __name__ == "__main__":
    stop.run(main, "stopped, and the nodes with it")

"""Kills or stops nodes of a split model at random moments, again and again.

    python -m tests.live.split_chaos [--times 20] [--seed 1] [--heads]

Each time eight answers stream through a door that holds no layers. All must end as they
do when nothing happens. Prints the longest pause that a reader saw.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.support.processes import processes
from tests.support.split import (
    Gap,
    answers,
    heal,
    hurt,
    questions,
    topology,
    wait_chain,
    write_model,
)

NODES = ["n0", "n1", "n2"]


def tell(line: str) -> None:
    """Say a line to a person who waits."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def campaign(folder: Path, times: int, seed: int, *, heads: bool = False) -> None:
    """Run so many accidents."""
    draw = random.Random(seed)
    text = topology(write_model(folder / "model"), NODES)
    async with processes(folder, text, count=4) as (nodes, http):
        for node in nodes:
            await node.start()
        *parts, door = nodes
        await wait_chain(http, parts, 3)
        asked = questions()
        began_s = time.monotonic()
        calm = await _through(door, asked)
        calm_s = time.monotonic() - began_s
        tell(f"undisturbed: {calm_s:.2f} s, {sum(map(len, calm))} characters")
        pauses = []
        for at in range(times):
            role = await wait_chain(http, parts, 3)
            order = [each["node"] for each in role["engine"]["chain"]["nodes"]]
            victim = draw.choice(order if heads else order[1:])
            how, when_s = draw.choice(["kill", "stop"]), draw.random() * calm_s
            if draw.random() < 0.4:
                when_s *= 0.15  # while prompts are read
            place = order.index(victim)
            tell(f"{at}: {how} {victim} (part {place}) at {when_s:.2f} s")
            try:
                pause_s = await _accident(
                    parts[NODES.index(victim)], door, asked, calm, how, when_s
                )
            except BaseException:
                _tell_last_words(nodes)
                raise
            tell(f"   all as ever; longest pause {pause_s:.2f} s")
            pauses.append(pause_s)
        tell(f"pauses: median {median(pauses):.2f} s, longest {max(pauses):.2f} s, of {times}")


def _tell_last_words(nodes):
    for node in nodes:
        tell(f"--- {node.name}")
        for line in node.errors.read_text(errors="replace").splitlines()[-40:]:
            tell(line)


async def _through(door, asked):
    while True:
        try:
            return await answers(door.url(""), asked)
        except Exception as error:  # noqa: BLE001 - the door may still be joining
            tell(f"door: {error}")
            await asyncio.sleep(0.5)


async def _accident(node, door, asked, calm, how, when_s):
    gap = Gap()
    running = asyncio.create_task(answers(door.url(""), asked, gap))
    await asyncio.sleep(when_s)
    await hurt(node, how)
    found = await running
    assert found == calm, [(a, b) for a, b in zip(found, calm, strict=True) if a != b][:1]
    await heal(node, how)
    return gap.longest_s


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--heads", action="store_true", help="hurt heads too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(campaign(Path(folder), given.times, given.seed, heads=given.heads))


if __name__ == "__main__":
    main()

"""Runs one phase of load, looks at the nodes meanwhile, and says everything about it.

Shell: joins the crew, the watch and the line of progress. Used by `loadgen` and `compare`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tools.loadgen.crew import Crew, Result
from tools.loadgen.plan import Load
from tools.loadgen.show import Progress
from tools.loadgen.summary import summarize
from tools.loadgen.watch import Watch

Told = Callable[[int, int], None]


async def measure(crew: Crew, load: Load) -> dict[str, Any]:
    """Run one phase and return everything that it says."""
    found, _ = await measure_with(crew, load)
    return found


async def measure_with(
    crew: Crew, load: Load, told: Told = lambda done, failed: None
) -> tuple[dict[str, Any], Result]:
    """Run one phase and return everything that it says, and its samples.

    Args:
        crew: sends the requests.
        load: when, and how many.
        told: how far it is, (done, failed), about twice a second.
    """
    began_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    watch = Watch(crew.headers)
    async with watch.watching(crew.targets):
        outcome = await run(crew, load, told)
    result = summarize(load, outcome.samples, outcome.wall_s, outcome.cpu_shares)
    found = {**result, "began_at": began_at, **watch.summary(len(outcome.samples))}
    return found, outcome


async def run(crew: Crew, load: Load, told: Told = lambda done, failed: None) -> Result:
    """Run one phase under a line of progress."""
    progress = Progress(load.name, load.requests, load.seconds)

    def tell(done: int, failed: int) -> None:
        progress(done, failed)
        told(done, failed)

    try:
        return await crew.run(load, tell)
    finally:
        progress.close()

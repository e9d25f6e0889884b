"""What a seed decides before a simulated mesh runs: its nodes, its links, its clients, its faults.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.sim.whole.town import PIPELINES
from tests.sim.world import Weather

STORM_S = 40.0
ORDERLY = ("drain", "epoch", "slow", "lag", "jump")  # nothing that is under way is lost
BREAKING = ("crash", "off", "move", "strike", "pause", "cut", "oneway", "burst")
FAULTS = ORDERLY + BREAKING


@dataclass(frozen=True)
class Fault:
    """One line of a world's script; `at_s` is no more than an order in a steady world."""

    at_s: float
    kind: str
    host: str
    seconds: float
    size: float

    def __str__(self) -> str:
        """Say it for a person."""
        return (
            f"{self.at_s:7.3f} {self.kind:<7} {self.host} for {self.seconds:.2f} s, {self.size:.2f}"
        )


@dataclass(frozen=True)
class Script:
    """Everything that a seed decides before the run."""

    seed: int
    names: tuple[str, ...]
    is_steady: bool
    replicas: int
    weather: Weather
    queue_max: int
    pace_s: float
    mix: tuple[str, ...]
    faults: tuple[Fault, ...]
    requests_max: int = 256
    unasked: frozenset[int] = frozenset()  # clients who stay at home; `shrink` keeps them there

    def __str__(self) -> str:
        """Return the expansion of the seed, as it is printed with a failure."""
        kind = "steady" if self.is_steady else "wild"
        head = (
            f"seed {self.seed}: {kind}, {len(self.names)} nodes, {self.replicas} replicas, queues "
            f"of {self.queue_max}, doors for {self.requests_max}, a client per {self.pace_s:.2f} s "
            f"for {' '.join(self.mix)}, {len(self.unasked)} of them at home, {self.weather}"
        )
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)])


def draw(seed: int) -> Script:
    """Expand a seed: first which kinds of faults there are, then each fault."""
    rng = Random(f"{seed}/whole")
    is_steady = rng.random() < 0.6
    names = tuple("abcdef"[: rng.randint(4 if is_steady else 3, 6)])
    kinds = [one for one in FAULTS if rng.random() < 0.4] or ["crash"]
    if rng.random() < 0.25:
        kinds = [one for one in kinds if one in ORDERLY] or ["drain"]
    weather = Weather(
        latency_s=rng.choice((0.0005, 0.003, 0.02)),
        jitter_s=rng.choice((0.0005, 0.005)),
        loss=rng.choice((0.0, 0.0, 0.01) if is_steady else (0.0, 0.05, 0.2)),
        duplicate=rng.choice((0.0, 0.15)),
    )
    faults, at_s, pace_s = [], 2.0, rng.choice((1.5, 3.0, 6.0))
    while (at_s := at_s + rng.expovariate(1 / pace_s)) < STORM_S:
        length_s = rng.choice((0.5, 1.5, 4.0, 7.0)) * rng.uniform(0.8, 1.2)
        faults.append(Fault(at_s, rng.choice(kinds), rng.choice(names), length_s, rng.random()))
    mix = tuple(name for name in PIPELINES if rng.random() < 0.6) or ("work",)
    queue_max = rng.choice((8, 32, 1024))
    return Script(
        seed,
        names,
        is_steady,
        rng.randint(2, 3),
        weather,
        queue_max,
        rng.choice((0.2, 0.5) if queue_max == 8 else (0.05, 0.15, 0.5)),
        mix,
        tuple(faults),
        24 if queue_max == 8 else 256,
    )

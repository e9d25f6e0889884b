"""Measures the ring against theory: how even it is, what a change moves, how far a bound holds.

    python -m bench.ring [--write]

Pure but for the file. Names and draws are fixed, so the figures are the same on every machine;
`--write` puts them into docs/ring.md, and a test compares the two.
"""

from __future__ import annotations

import argparse
import sys
from math import ceil, sqrt
from pathlib import Path
from random import Random
from statistics import NormalDist, fmean

from bench.report import progress, table
from mesh.ring import bounded
from mesh.ring.ring import VNODES, Ring, moves

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ring.md"
SIZES = (2, 3, 5, 8, 16, 32, 64)
RINGS = 60  # of each size, with other names each time: the error of a mean is an eighth of a spread
BOUND_NODES = 8
ARRIVALS = 6000  # per row of the bounded table, after as many as are in flight have come
HOT = 0.2  # share of the requests that ask for one key, in the rows with a hot key
KEYS = 4000

HEAD = """\
# The ring in numbers

Who owns a key follows from the members alone ([ring.py](../mesh/ring/ring.py)): {vnodes} points \
per node on a circle of 64 bits, MurmurHash3. `python -m bench.ring --write` makes this page; \
names and draws are fixed, so it gives the same figures everywhere, and a test compares them.

With keys and points hashed by MD5, three nodes `http://localhost:8001` to `8003` own 1520, 1700 \
and 1780 of the keys `req_0` to `req_4999`: a known answer of rings that are built the same way, \
tested in `tests/unit/ring/test_ring.py`.
"""
EVEN = """\
## How even

Share of all keys per node, relative to the mean, over {rings} rings of each size.

{table}

*Theory.* The gaps between points that fall at random on a circle are Dirichlet(1, …, 1) \
(David, Nagaraja, "Order Statistics", 3rd ed. 2003, §6.4), so the V gaps of one of N nodes add up \
to Beta(V, (N-1)·V), whose std/mean is √((N-1)/(N·V+1)). The largest of N shares is at \
1 + std/mean · Φ⁻¹((N-0.375)/(N+0.25)) · √(N/(N-1)): the expected largest of N normal \
values (Blom, "Statistical Estimates and Transformed Beta-Variables", 1958) whose mean is known.
"""
MOVED = """\
## What a change moves

Share of all keys that get another owner when one node joins N, or one of N leaves; exact, from \
the points, over {rings} rings.

{table}

*Theory.* A joiner takes its own share, 1/(N+1), and nothing else moves; a leaver gives its own, \
1/N (Karger et al., "Consistent Hashing and Random Trees", 1997: monotonicity). Last column: what \
`hash(key) mod N` would move at the join, N/(N+1).
"""
BOUND = """\
## How far the bound holds

{nodes} nodes, a steady number of requests in flight (one ends by lot, one comes), {arrivals} \
arrivals. *most*: the most that one node ever had, relative to the mean. *moved on*: requests \
that their owner was too full for. With "hot", every fifth request asks for the same key.

{table}

*Theory.* No node takes more than ⌈c·m/N⌉ of m requests, or {floor}, whichever is more \
(Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016; the floor is \
ours). A full owner is a full group of servers: the share moved on is about \
Erlang's B (Erlang 1917) at each node's own load, weighted by it. It is less where few are in \
flight, as their number is fixed here and Erlang's is not, and more where the bound is tight, as \
what one node moves on fills the next. Where a key is hot, its owner \
alone would have {hot:.0%} of all requests and more; the bound spreads them over the owners that \
follow, always the same ones.
"""


def ring_of(count: int, turn: int) -> Ring:
    """Return a ring of so many nodes; another `turn` has other names, and so other points."""
    return Ring({f"t{turn}-n{number}": 1.0 for number in range(count)})


def even_row(count: int) -> list[str]:
    """Return one size's row of the first table."""
    squares, largest, worst = [], [], 0.0
    for turn in range(RINGS):
        relative = [share * count for share in ring_of(count, turn).shares().values()]
        squares.append(fmean((one - 1.0) ** 2 for one in relative))
        largest.append(max(relative))
        worst = max(worst, *relative)
    spread = sqrt((count - 1) / (count * VNODES + 1))
    known_mean = sqrt(count / (count - 1))
    expected = 1.0 + spread * known_mean * NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
    return [
        str(count),
        f"{sqrt(fmean(squares)):.3f}",
        f"{spread:.3f}",
        f"{fmean(largest):.3f}",
        f"{expected:.3f}",
        f"{worst:.3f}",
    ]


def moved_row(count: int) -> list[str]:
    """Return one size's row of the second table."""
    joined, elsewhere, left = [], 0.0, []
    for turn in range(RINGS):
        small, large = ring_of(count, turn), ring_of(count + 1, turn)
        moved = moves(small, large)
        newcomer = f"t{turn}-n{count}"
        joined.append(sum(moved.values()))
        elsewhere += sum(share for (_, to), share in moved.items() if to != newcomer)
        gone = Ring({name: 1.0 for name in small.members if name != f"t{turn}-n0"})
        left.append(sum(moves(small, gone).values()))
    return [
        str(count),
        f"{fmean(joined):.4f} ({min(joined):.4f} to {max(joined):.4f})",
        f"{1 / (count + 1):.4f}",
        f"{elsewhere:.4f}",
        f"{fmean(left):.4f} ({min(left):.4f} to {max(left):.4f})",
        f"{1 / count:.4f}",
        f"{count / (count + 1):.4f}",
    ]


def bound_row(c: float, per_node: int, *, is_hot: bool) -> list[str]:
    """Return one case's row of the third table."""
    rng = Random(7)
    ring = ring_of(BOUND_NODES, 0)
    count = per_node * BOUND_NODES
    ways = [ring.owners(f"key-{number}", BOUND_NODES) for number in range(KEYS)]
    loads = dict.fromkeys(ring.members, 0)
    out: list[str] = []
    most = moved = 0
    for turn in range(ARRIVALS + count):
        if len(out) == count:
            index = rng.randrange(count)
            out[index], out[-1] = out[-1], out[index]
            loads[out.pop()] -= 1
        way = ways[0] if is_hot and rng.random() < HOT else rng.choice(ways)
        taker = bounded.choose(way, loads, c)
        loads[taker] += 1
        out.append(taker)
        if turn >= count:
            moved += taker != way[0]
            most = max(most, loads[taker])
    limit = max(bounded.FLOOR, ceil(c * count / BOUND_NODES))
    hot = HOT if is_hot else 0.0
    offered = [
        (share * (1.0 - hot) + hot * (name == ways[0][0])) * count
        for name, share in ring.shares().items()
    ]
    expected = sum(load * erlang_b(limit, load) for load in offered) / count
    assert most <= limit, "the bound does not hold"
    return [
        f"{c:g}",
        f"{per_node}{', hot' if is_hot else ''}",
        f"{most / per_node:.2f}",
        f"{limit / per_node:.2f}",
        f"{moved / ARRIVALS:.3f}",
        f"{expected:.3f}",
    ]


def erlang_b(servers: int, offered: float) -> float:
    """Return the share of arrivals that find all servers busy (Erlang 1917)."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


def page() -> str:
    """Return the whole page."""
    even = table(
        ["nodes", "std/mean", "theory", "largest", "theory", "largest ever"],
        [even_row(count) for count in SIZES],
    )
    progress("ring: how even, done")
    moved = table(
        ["nodes", "moved by a joiner", "theory", "to others", "by a leaver", "theory", "mod N"],
        [moved_row(count) for count in SIZES],
    )
    progress("ring: what a change moves, done")
    cases = [(c, each, False) for c in (1.25, bounded.C, 2.0) for each in (2, 8, 32)]
    cases += [(bounded.C, each, True) for each in (8, 32)]
    bound = table(
        ["c", "in flight per node", "most", "bound", "moved on", "theory"],
        [bound_row(c, each, is_hot=is_hot) for c, each, is_hot in cases],
    )
    return "\n".join(
        (
            HEAD.format(vnodes=VNODES),
            EVEN.format(rings=RINGS, table=even),
            MOVED.format(rings=RINGS, table=moved),
            BOUND.format(
                nodes=BOUND_NODES, arrivals=ARRIVALS, table=bound, floor=bounded.FLOOR, hot=HOT
            ),
        )
    )


def main() -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(prog="python -m bench.ring", description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/ring.md")
    text = page()
    if parser.parse_args().write:
        PAGE.write_text(text)
    print("#" + text)  # a section of the report
    return 0


if __name__ == "__main__":
    sys.exit(main())

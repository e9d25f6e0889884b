"""Tallies say what Prometheus' own counters and histograms would."""

import random

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from mesh.observe.tally import Count, Spread

BOUNDS = (0.001, 0.5, 1.0, 10.0)


def test_a_spread_is_told_like_the_librarys_histogram():
    """The same text for the same values, ends of buckets among them."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    spread = Spread("took_seconds", "Time.", ("route",), BOUNDS)
    ours.register(spread)
    library = Histogram("took_seconds", "Time.", ("route",), buckets=BOUNDS, registry=theirs)
    rng = random.Random(3)
    for value in [*BOUNDS, 0.0, 11.0, *(rng.random() * 12 for _ in range(50))]:
        route = rng.choice(["/a", "/b"])
        spread.add((route,), value)
        library.labels(route).observe(value)
    assert lines(ours) == lines(theirs)


def test_a_count_is_told_like_the_librarys_counter():
    """With amounts, and with none."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    count = Count("seen_total", "Seen.", ("kind", "code"))
    ours.register(count)
    library = Counter("seen_total", "Seen.", ("kind", "code"), registry=theirs)
    for labels, amount in [(("a", "1"), 1), (("b", "2"), 3), (("a", "1"), 2)]:
        count.add(labels, amount)
        library.labels(*labels).inc(amount)
    assert lines(ours) == lines(theirs)


def lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode().splitlines()
    return sorted(line for line in text if "_created" not in line)

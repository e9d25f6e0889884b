"""Declares every Prometheus metric of a node, in one place.

Shell: counters and histograms live here; the parts that count are handed one
`Metrics`. Each node has its own registry, so several can share a process.
Names are `mesh_<part>_<noun>_<unit>`, labels are few and bounded: routes are
patterns, never paths, and no label carries an id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mesh.observe.tally import Count, Spread

# 1 ms is a warm local call, 60 s the usual deadline; steps of about 2.5 keep p99 within a factor
# of 2.5, and 15 buckets per route and status stay cheap to scrape.
SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
# Powers of two: batches are bounded by settings that are usually such.
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

UNCOUNTED_MAX = 64  # traces that wait to be counted: well under 0.1 ms of the loop

disable_created_metrics()  # a second series for each counter, which nobody reads

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Number = float | int
Sample = tuple[tuple[str, ...], Number]


class Metrics:
    """The metrics of one node."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._uncounted: list[tuple[str, Mapping[str, Any]]] = []
        self._declare_doors()
        self._declare_flow()
        self.loop_lag_seconds = Histogram(
            "mesh_process_loop_lag_seconds",
            "How late the event loop woke; above 0.1 s gossip is in danger.",
            buckets=SECONDS[:10],
            registry=self.registry,
        )

    def _declare_doors(self) -> None:
        self.http_active = 0
        self._http_requests = Count(
            "mesh_http_requests_total",
            "HTTP requests answered, by route pattern, method and status.",
            ("route", "method", "status"),
        )
        self._http_seconds = Spread(
            "mesh_http_request_seconds",
            "From the request's head to the end of its answer, by route pattern.",
            ("route",),
            SECONDS,
        )
        self._errors = Count(
            "mesh_http_errors_total",
            "Requests that ended in an error, by its code; see docs/errors.md.",
            ("code",),
        )
        self.registry.register(self._errors)
        self.registry.register(self._http_requests)
        self.registry.register(self._http_seconds)
        self.add_gauge(
            "mesh_http_requests_active",
            "HTTP requests being answered now.",
            (),
            lambda: [((), self.http_active)],
        )

    def _declare_flow(self) -> None:
        self._pipeline_seconds = Spread(
            "mesh_pipeline_seconds",
            "Time of a whole pipeline that was answered.",
            ("pipeline",),
            SECONDS,
        )
        self._stage_seconds = Spread(
            "mesh_stage_seconds",
            "Time of one stage by part: queued and ran at its node, network between.",
            ("role", "part"),
            SECONDS,
        )
        self._stage_batch_items = Spread(
            "mesh_stage_batch_items",
            "Items that ran together with an item of this door.",
            ("role",),
            ITEMS,
        )
        self._stage_attempts = Count(
            "mesh_stage_attempts_total",
            "Calls made for stages; above their number by the retries.",
            ("role",),
        )
        for tally in (
            self._pipeline_seconds,
            self._stage_seconds,
            self._stage_batch_items,
            self._stage_attempts,
        ):
            self.registry.register(tally)
        self.pipeline_failures = Counter(
            "mesh_pipeline_failures_total",
            "Pipelines that ended in an error, by its code.",
            ("pipeline", "code"),
            registry=self.registry,
        )

    def add_gauge(
        self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]
    ) -> None:
        """Declare a value that is read when it is scraped."""
        self.registry.register(_Read(name, text, labels, read, is_counter=False))

    def add_counter(
        self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]
    ) -> None:
        """Declare a total that another part counts, read when it is scraped."""
        self.registry.register(_Read(name, text, labels, read, is_counter=True))

    def observe_http(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count an answered request."""
        self._http_requests.add((route, method, str(status)))
        self._http_seconds.add((route,), took_s)

    def observe_error(self, code: str) -> None:
        """Count a request that ended in an error, also one that broke off after it had begun."""
        self._errors.add((code,))

    def observe_trace(self, pipeline: str, trace: Mapping[str, Any]) -> None:
        """Count a finished pipeline and its stages from its trace, with others or at the scrape.

        One by one, between other work, took 2.5 µs each; together they take 1 µs.
        """
        self._uncounted.append((pipeline, trace))
        if len(self._uncounted) >= UNCOUNTED_MAX:
            self._count_traces()

    def text(self) -> bytes:
        """Return the exposition of everything."""
        self._count_traces()
        return generate_latest(self.registry)

    def _count_traces(self) -> None:
        for pipeline, trace in self._uncounted:
            self._count_trace(pipeline, trace)
        self._uncounted.clear()

    def _count_trace(self, pipeline: str, trace: Mapping[str, Any]) -> None:
        self._pipeline_seconds.add((pipeline,), trace["total_ms"] / 1000.0)
        seconds = self._stage_seconds
        for stage in trace["stages"]:
            role = stage["role"]
            seconds.add((role, "queued"), stage["queued_ms"] / 1000.0)
            seconds.add((role, "ran"), stage["ran_ms"] / 1000.0)
            if stage["network_ms"]:  # a stage at this node has none; zeros would hide the others
                seconds.add((role, "network"), stage["network_ms"] / 1000.0)
            self._stage_batch_items.add((role,), stage["batch_size"])
            self._stage_attempts.add((role,), stage["attempts"])


class _Read:
    """A collector whose samples are computed at the scrape."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        read: Callable[[], Iterable[Sample]],
        *,
        is_counter: bool,
    ) -> None:
        family = CounterMetricFamily if is_counter else GaugeMetricFamily
        self._family, self._name, self._text = family, name, text
        self._labels, self._read = labels, read

    def describe(self) -> Iterable[Metric]:
        return [self._family(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        metric = self._family(self._name, self._text, labels=self._labels)
        for labels, value in self._read():
            metric.add_metric(labels, value)
        return [metric]

"""Prometheus metrics. Labels take their values from the configuration, never from a client: no flood of series (F35)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xrouter.context import Outcome, RequestContext
from xrouter.errors import XRouterError
from xrouter.filters.base import Services
from xrouter.limits.metrics import limit_metrics
from xrouter.observe.logs import LogWriter
from xrouter.providers.metrics import upstream_metrics
from xrouter.routing.metrics import health_metrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_RATIOS: Final = (0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4)
_OVERHEAD: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1)


@dataclass(frozen=True, slots=True)
class _Series:
    """The children that one kind of request moves."""

    model: str
    requests: Counter
    duration: Histogram
    first_token: Histogram
    input_reported: Counter
    output_reported: Counter
    estimate_ratio: Histogram


class Metrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, int], _Series] = {}
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "xrouter_requests", "Requests answered", ["endpoint", "model", "upstream", "status"], registry=registry
        )
        self.errors = Counter("xrouter_errors", "Requests refused or failed", ["origin", "type"], registry=registry)
        self.upstream_errors = Counter(
            "xrouter_upstream_errors", "Attempts that an upstream failed", ["upstream", "kind"], registry=registry
        )
        self.stream_ends = Counter("xrouter_stream_end", "How calls ended", ["reason"], registry=registry)
        self.duration = Histogram(
            "xrouter_request_seconds",
            "From a request's head to its last byte",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "xrouter_first_token_seconds",
            "To an answer's first piece",
            ["upstream"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.overhead = Histogram(
            "xrouter_overhead_seconds",
            "The gateway's part of the time to first byte",
            buckets=_OVERHEAD,
            registry=registry,
        )
        self.tokens = Counter("xrouter_tokens", "Tokens served", ["model", "kind", "source"], registry=registry)
        self.estimate_ratio = Histogram(
            "xrouter_token_estimate_ratio",
            "Input tokens as the provider reported them, over those estimated before",
            ["model"],
            buckets=_RATIOS,
            registry=registry,
        )
        self.in_flight = Gauge("xrouter_in_flight", "Requests under way", registry=registry)
        self.ledger_imbalance = Gauge(
            "xrouter_ledger_imbalance", "Nanocredits by which the ledger is wrong: always 0", registry=registry
        )
        self.front_refusals = Counter(
            "xrouter_front_refusals", "Requests refused before the chain", ["status"], registry=registry
        )

    def finished(
        self, ctx: RequestContext, status: int, seconds: float, overhead_s: float | None, error: XRouterError | None
    ) -> None:
        """Count one request that has ended."""
        outcome: Outcome | None = ctx.outcome if ctx.provided("outcome") else None
        target = outcome.target if outcome else None
        series = self._series(
            ctx.endpoint.name,
            target.public_model if target else "unknown",
            target.upstream if target else "unknown",
            status,
        )
        series.requests.inc()
        series.duration.observe(seconds)
        if error is not None:
            self.errors.labels(error.origin, error.type).inc()
        if overhead_s is not None:
            self.overhead.observe(overhead_s)
        if outcome is None:
            return
        self.stream_ends.labels(outcome.end).inc()
        for attempt in outcome.attempts:
            if attempt.kind is not None:
                self.upstream_errors.labels(attempt.upstream, attempt.kind).inc()
        if outcome.first_token_s is not None:
            series.first_token.observe(outcome.first_token_s)
        if usage := outcome.usage:
            if usage.source == "reported":
                series.input_reported.inc(usage.input_tokens)
                series.output_reported.inc(usage.output_tokens)
                if ctx.provided("estimate") and ctx.estimate.input_tokens:
                    series.estimate_ratio.observe(usage.input_tokens / ctx.estimate.input_tokens)
            else:
                self.tokens.labels(series.model, "input", usage.source).inc(usage.input_tokens)
                self.tokens.labels(series.model, "output", usage.source).inc(usage.output_tokens)

    def _series(self, endpoint: str, model: str, upstream: str, status: int) -> "_Series":
        """The label look-ups of one kind of request, done once: they cost more than the counting."""
        kind = (endpoint, model, upstream, status)
        series = self._known.get(kind)
        if series is None:
            series = self._known[kind] = _Series(
                model=model,
                requests=self.requests.labels(endpoint, model, upstream, str(status)),
                duration=self.duration.labels(endpoint),
                first_token=self.first_token.labels(upstream),
                input_reported=self.tokens.labels(model, "input", "reported"),
                output_reported=self.tokens.labels(model, "output", "reported"),
                estimate_ratio=self.estimate_ratio.labels(model),
            )
        return series

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class ServicesCollector(Collector):
    """What the running parts know of themselves, read when it is asked for."""

    def __init__(self, services: Services, log: LogWriter) -> None:
        self._services = services
        self._log = log

    def describe(self) -> Iterable[Metric]:
        return ()  # the names need no announcement: this registry is the gateway's own

    def collect(self) -> Iterator[Metric]:
        pool = GaugeMetricFamily("xrouter_upstream_connections", "Pooled connections", labels=["upstream", "state"])
        opened = CounterMetricFamily("xrouter_upstream_connections_opened", "Connections made", labels=["upstream"])
        gate = GaugeMetricFamily("xrouter_upstream_calls", "Calls under way and waiting", labels=["upstream", "state"])
        for name, upstream in self._services.upstreams.items():
            stats = upstream.credentials.stats()
            pool.add_metric([name, "idle"], stats.idle)
            pool.add_metric([name, "active"], stats.active)
            opened.add_metric([name], stats.opened)
            gate.add_metric([name, "active"], upstream.credentials.active)
            gate.add_metric([name, "waiting"], upstream.credentials.waiting)
        yield from (pool, opened, gate)
        yield from health_metrics(self._services.health)
        lag = GaugeMetricFamily("xrouter_keys_lag_seconds", "Age of what is known of changed keys")
        lag.add_metric([], self._services.keys.lag_s)
        yield lag
        ledger = self._services.ledger
        batches = CounterMetricFamily("xrouter_ledger_batches", "Transactions of the ledger")
        batches.add_metric([], ledger.batches)
        operations = CounterMetricFamily("xrouter_ledger_operations", "Holds, settlements and releases in them")
        operations.add_metric([], ledger.operations)
        journaled = CounterMetricFamily(
            "xrouter_ledger_journaled", "Settlements that waited for the store in the journal"
        )
        journaled.add_metric([], ledger.journaled)
        yield from (batches, operations, journaled)
        dropped = CounterMetricFamily("xrouter_log_lines_dropped", "Log lines that nobody read in time")
        dropped.add_metric([], self._log.dropped)
        yield dropped
        yield from limit_metrics(self._services.limits)
        yield from upstream_metrics(self._services.upstreams, self._services.world)

"""Prometheus metrics. Labels take their values from the configuration, never from a client: no flood of series (F35)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xrouter.context import RequestContext, Target
from xrouter.errors import XRouterError
from xrouter.filters.base import Services
from xrouter.limits.metrics import limit_metrics
from xrouter.observe.logs import LogWriter
from xrouter.observe.series import Count, Counters, Spread, Spreads
from xrouter.providers.metrics import upstream_metrics
from xrouter.routing.metrics import health_metrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_RATIOS: Final = (0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4)
_OVERHEAD: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1)


@dataclass(frozen=True, slots=True)
class _Series:
    """The series that one kind of request moves."""

    requests: Count
    duration: Spread
    stream_ends: Count
    first_token: Spread
    input_tokens: Count
    output_tokens: Count
    estimate_ratio: Spread


class Metrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, Target | None, str, str], _Series] = {}
        self.in_flight = 0
        self.requests = Counters("xrouter_requests", "Requests answered", ["endpoint", "model", "upstream", "status"])
        self.errors = Counters("xrouter_errors", "Requests refused or failed", ["origin", "type"])
        self.upstream_errors = Counters(
            "xrouter_upstream_errors", "Attempts that an upstream failed", ["upstream", "kind"]
        )
        self.stream_ends = Counters("xrouter_stream_end", "How calls ended", ["reason"])
        self.duration = Spreads(
            "xrouter_request_seconds", "From a request's head to its last byte", ["endpoint"], _SECONDS
        )
        self.first_token = Spreads("xrouter_first_token_seconds", "To an answer's first piece", ["upstream"], _SECONDS)
        self.overhead = Spreads(
            "xrouter_overhead_seconds", "The gateway's part of the time to first byte", [], _OVERHEAD
        )
        self.tokens = Counters("xrouter_tokens", "Tokens served", ["model", "kind", "source"])
        self.estimate_ratio = Spreads(
            "xrouter_token_estimate_ratio",
            "Input tokens as the provider reported them, over those estimated before",
            ["model"],
            _RATIOS,
        )
        self.front_refusals = Counters("xrouter_front_refusals", "Requests refused before the chain", ["status"])
        self.shed = Counters("xrouter_requests_shed", "Requests answered 503 since too many came", ["reason"])
        self._overhead = self.overhead.labels()
        self.registry = CollectorRegistry()
        for family in (
            self.requests, self.errors, self.upstream_errors, self.stream_ends, self.duration, self.first_token,
            self.overhead, self.tokens, self.estimate_ratio,
        ):  # fmt: skip
            self.registry.register(family)
        in_flight = Gauge("xrouter_in_flight", "Requests under way", registry=self.registry)
        in_flight.set_function(lambda: self.in_flight)
        self.ledger_imbalance = Gauge(
            "xrouter_ledger_imbalance", "Nanocredits by which the ledger is wrong: always 0", registry=self.registry
        )
        self.registry.register(self.front_refusals)
        self.registry.register(self.shed)

    def finished(
        self, ctx: RequestContext, status: int, seconds: float, overhead_s: float | None, error: XRouterError | None
    ) -> None:
        """Count one request that has ended."""
        if error is not None:
            self.errors.labels(error.origin.value, error.type).inc()
        if overhead_s is not None:
            self._overhead.observe(overhead_s)
        if "outcome" not in ctx:
            self._refused(ctx.endpoint.name, status, seconds)
            return
        outcome = ctx.outcome
        usage = outcome.usage
        source = usage.source if usage is not None else "reported"
        kind = (ctx.endpoint.name, status, outcome.target, outcome.end, source)
        series = self._known.get(kind)
        if series is None:
            series = self._known[kind] = self._series(*kind)
        series.requests.value += 1
        series.duration.observe(seconds)
        series.stream_ends.value += 1
        for attempt in outcome.attempts:
            if attempt.kind is not None:
                self.upstream_errors.labels(attempt.upstream, attempt.kind).inc()
        if outcome.first_token_s is not None:
            series.first_token.observe(outcome.first_token_s)
        if usage is not None:
            series.input_tokens.value += usage.input_tokens
            series.output_tokens.value += usage.output_tokens
            if source == "reported" and "estimate" in ctx and ctx.estimate.input_tokens:
                series.estimate_ratio.observe(usage.input_tokens / ctx.estimate.input_tokens)

    def _refused(self, endpoint: str, status: int, seconds: float) -> None:
        """It never came to a call of an upstream, or had no need of one."""
        self.requests.labels(endpoint, "unknown", "unknown", str(status)).inc()
        self.duration.labels(endpoint).observe(seconds)

    def _series(self, endpoint: str, status: int, target: Target | None, end: str, source: str) -> _Series:
        """The label look-ups of one kind of request, done once: they cost more than the counting."""
        model, upstream = (target.public_model, target.upstream) if target is not None else ("unknown", "unknown")
        return _Series(
            requests=self.requests.labels(endpoint, model, upstream, str(status)),
            duration=self.duration.labels(endpoint),
            stream_ends=self.stream_ends.labels(end),
            first_token=self.first_token.labels(upstream),
            input_tokens=self.tokens.labels(model, "input", source),
            output_tokens=self.tokens.labels(model, "output", source),
            estimate_ratio=self.estimate_ratio.labels(model),
        )


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

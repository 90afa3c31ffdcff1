"""What the store of limits tells of itself."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from xrouter.limits.store import LimitStore


def limit_metrics(store: LimitStore) -> Iterator[Metric]:
    """Read when asked for. The label `limit` takes only names from the configuration."""
    degraded = GaugeMetricFamily("xrouter_ratelimit_degraded", "1 while the store of limits is away")
    degraded.add_metric([], store.degraded)
    yield degraded
    counters = store.counters
    admitted = CounterMetricFamily("xrouter_ratelimit_admitted", "Requests admitted by their limits")
    admitted.add_metric([], counters.admitted)
    yield admitted
    refused = CounterMetricFamily("xrouter_ratelimit_refused", "Claims refused", labels=["limit", "shadow"])
    for found, shadow in ((counters.refused, "false"), (counters.shadow_refused, "true")):
        for name, count in found.items():
            refused.add_metric([name, shadow], count)
    yield refused
    errors = CounterMetricFamily("xrouter_ratelimit_store_errors", "Calls of the store that failed or came too late")
    errors.add_metric([], counters.store_errors)
    yield errors
    lost = CounterMetricFamily("xrouter_ratelimit_lost_changes", "Corrections given up in a long outage of the store")
    lost.add_metric([], counters.lost_changes)
    yield lost

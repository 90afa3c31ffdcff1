"""What `/metrics` says of the places' health, read when it is asked for."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from xrouter.routing.health import Health


def health_metrics(health: Health) -> Iterator[Metric]:
    ejected = GaugeMetricFamily(
        "xrouter_upstream_ejected", "Models of upstreams that are left alone", labels=["upstream", "model"]
    )
    for place in health.known():
        ejected.add_metric(list(place), float(health.ejection(place) is not None))
    yield ejected
    begun = CounterMetricFamily("xrouter_upstream_ejections", "Ejections begun", labels=["upstream", "reason"])
    for counted, number in health.ejections.items():
        begun.add_metric(list(counted), number)
    yield begun
    probes = CounterMetricFamily("xrouter_upstream_probes", "Active probes", labels=["upstream", "result"])
    for counted, number in health.probes.items():
        probes.add_metric(list(counted), number)
    yield probes
    if health.shared is not None:
        degraded = GaugeMetricFamily("xrouter_health_degraded", "Whether ejections cannot be shared: Redis is away")
        degraded.add_metric([], float(not health.shared))
        yield degraded

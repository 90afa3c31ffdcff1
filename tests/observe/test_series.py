"""Counters and histograms of the event loop: exposed as prometheus-client's own are."""

import re

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from xrouter.observe.series import Counters, Spreads

BOUNDS = (0.1, 1, 2.5)


def _exposed(registry: CollectorRegistry) -> str:
    """The text, with the times of making left out."""
    return re.sub(r"(_created(?:\{.*\})?) .*", r"\1", generate_latest(registry).decode())


def test_counters_and_histograms_are_exposed_as_those_of_prometheus_client() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counters, spreads, plain = (
        Counters("c", "Counted", ["a", "b"]),
        Spreads("h", "Measured", ["a"], BOUNDS),
        Spreads("p", "Plain", [], BOUNDS),
    )
    for family in (counters, spreads, plain):
        ours.register(family)
    counter = Counter("c", "Counted", ["a", "b"], registry=theirs)
    histogram = Histogram("h", "Measured", ["a"], buckets=BOUNDS, registry=theirs)
    alone = Histogram("p", "Plain", buckets=BOUNDS, registry=theirs)
    for value in (0.0, 0.1, 0.100001, 1, 2.5, 2.6, 1e9):
        counters.labels("x", 'say "y"\n').inc(value)
        counter.labels("x", 'say "y"\n').inc(value)
        spreads.labels("x").observe(value)
        histogram.labels("x").observe(value)
    counters.labels("y", "").inc()
    counter.labels("y", "").inc()
    plain.labels().observe(0.5)
    alone.observe(0.5)
    assert _exposed(ours) == _exposed(theirs)

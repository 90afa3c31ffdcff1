"""The metrics of several processes as those of one.

Each process's samples are taken as plain values (`take`), carried to whoever is asked for the metrics, and added up there
(`merge`). Counters and histograms are sums. Most gauges are too: connections, calls under way. Those that tell how bad
something is count once, at their worst. What a process that is gone had counted goes on counting, its gauges do not.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_WORST: Final = frozenset(
    {
        "xrouter_ledger_imbalance",
        "xrouter_keys_lag_seconds",
        "xrouter_upstream_ejected",
        "xrouter_health_degraded",
        "xrouter_ratelimit_degraded",
    }
)


class Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    name: str
    documentation: str
    type: str
    samples: list[Sample]


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """What one process's registry holds at one moment."""

    families: list[Family]


def take(registry: CollectorRegistry) -> Snapshot:
    return Snapshot(
        [
            Family(
                metric.name,
                metric.documentation,
                metric.type,
                [Sample(sample.name, sample.labels, float(sample.value)) for sample in metric.samples],
            )
            for metric in registry.collect()
        ]
    )


def without_gauges(snapshot: Snapshot) -> Snapshot:
    """What remains of a process that is gone: what it has counted."""
    return Snapshot([family for family in snapshot.families if family.type != "gauge"])


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot for all. The order of families and samples is that of their first appearance."""
    kinds: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Sample]] = {}
    for snapshot in snapshots:
        for family in snapshot.families:
            kinds.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            for sample in family.samples:
                place = (sample.name, frozenset(sample.labels.items()))
                before = known.get(place)
                known[place] = sample if before is None else _added(family.name, before, sample)
    return Snapshot(
        [Family(name, kind.documentation, kind.type, list(values[name].values())) for name, kind in kinds.items()]
    )


def _added(family: str, one: Sample, other: Sample) -> Sample:
    if one.name.endswith("_created"):
        value = min(one.value, other.value)
    elif family in _WORST:
        value = max(one.value, other.value)
    else:
        value = one.value + other.value
    return Sample(one.name, one.labels, value)


class _Merged(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for family in self._snapshot.families:
            metric = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def exposition(snapshot: Snapshot) -> bytes:
    """Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Merged(snapshot))
    return generate_latest(registry)

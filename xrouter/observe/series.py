"""Counters and histograms of one event loop: plain numbers, made into Prometheus's samples when they are asked for.

prometheus-client's own take a lock and several calls for each number, since any thread may move them: 0.3 µs for a counter,
0.7 for a histogram. These are moved by the event loop alone: 0.05 and 0.12 µs. What is exposed is the same.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from time import time
from typing import Final, Generic, TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = dict[str, str]


class Count:
    """One counter."""

    __slots__ = ("created", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.created = time()

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def add_samples(self, metric: Metric, labels: Labels) -> None:
        metric.add_sample(metric.name + "_total", labels, self.value)
        metric.add_sample(metric.name + "_created", labels, self.created)


class Spread:
    """One histogram: how many observations lie at or under each bound."""

    __slots__ = ("_bounds", "_counts", "_sum", "created")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend; infinity is the last one without being named."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self.created = time()

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_samples(self, metric: Metric, labels: Labels) -> None:
        below = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            metric.add_sample(metric.name + "_bucket", {**labels, "le": _go(bound)}, below)
        metric.add_sample(metric.name + "_count", labels, below)
        metric.add_sample(metric.name + "_sum", labels, self._sum)
        metric.add_sample(metric.name + "_created", labels, self.created)


def _go(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text


S = TypeVar("S", Count, Spread)


class _Family(Collector, Generic[S]):
    """The series of one name, by the values of their labels."""

    kind: str

    def __init__(self, name: str, documentation: str, names: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._names: Final = tuple(names)
        self._series: dict[tuple[str, ...], S] = {}
        if not names:
            self.labels()  # without labels there is one series, from the beginning

    def _made(self) -> S:
        raise NotImplementedError

    def labels(self, *values: str) -> S:
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._made()
        return series

    def describe(self) -> Iterator[Metric]:
        yield Metric(self._name, self._documentation, self.kind)

    def collect(self) -> Iterator[Metric]:
        metric = Metric(self._name, self._documentation, self.kind)
        for values, series in self._series.items():
            series.add_samples(metric, dict(zip(self._names, values, strict=True)))
        yield metric


class Counters(_Family[Count]):
    kind = "counter"

    def _made(self) -> Count:
        return Count()


class Spreads(_Family[Spread]):
    kind = "histogram"

    def __init__(self, name: str, documentation: str, names: Sequence[str], bounds: Sequence[float]) -> None:
        self._bounds = tuple(map(float, bounds))
        super().__init__(name, documentation, names)

    def _made(self) -> Spread:
        return Spread(self._bounds)

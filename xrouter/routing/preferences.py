"""The order that a request asks for: `provider.order`, `provider.sort` and the thresholds that it prefers to be kept.

https://openrouter.ai/docs/features/provider-routing: `order` goes before `sort`, and either before any balancing. A
threshold leaves nobody out: who misses it comes later. Sorts are stable, so that what was decided before breaks ties.
"""

from collections.abc import Mapping, Sequence

from xrouter.catalog import Sort
from xrouter.routing.balance import Price
from xrouter.routing.health import Health
from xrouter.routing.options import Option
from xrouter.wire import Percentiles, ProviderPreferences, SortBy

_UNKNOWN = float("inf")


def sort_of(preferences: ProviderPreferences | None) -> tuple[Sort | None, bool]:
    """By what the request sorts, and whether the routes of all of its models together."""
    sort = None if preferences is None else preferences.sort
    if isinstance(sort, SortBy):
        return sort.by, sort.partition == "none"
    return sort, False


def sorted_by(options: Sequence[Option], sort: Sort, health: Health, price: Price) -> list[Option]:
    """Places of which nothing is known come last: the client asks for what is known to be fast."""
    match sort:
        case "price":
            return sorted(options, key=price)
        case "latency":
            return sorted(options, key=lambda option: _or_unknown(health.latency_s(option.place)))
        case "throughput":
            return sorted(options, key=lambda option: -(health.throughput(option.place) or 0.0))


def thresholds_kept_first(options: Sequence[Option], preferences: ProviderPreferences, health: Health) -> list[Option]:
    """Those that are known to miss a preferred threshold go last."""
    slowest, least = preferences.preferred_max_latency, preferences.preferred_min_throughput
    if slowest is None and least is None:
        return list(options)
    return sorted(options, key=lambda option: _misses(option, slowest, least, health))


def named_first(options: Sequence[Option], order: Sequence[str]) -> list[Option]:
    """Those that `order` names, as it names them; then the others."""
    places = {name: place for place, name in reversed(list(enumerate(order)))}
    last = len(order)
    return sorted(
        options,
        key=lambda option: min(places.get(option.target.upstream, last), places.get(option.provider, last)),
    )


def is_named(option: Option, order: Sequence[str]) -> bool:
    return not option.names.isdisjoint(order)


def _misses(
    option: Option, slowest: float | Percentiles | None, least: float | Percentiles | None, health: Health
) -> bool:
    report = health.report(option.place)
    return any(known.get(name, most) > most for known, name, most in _bounds(report.latency_s, slowest)) or any(
        known.get(name, most) < most for known, name, most in _bounds(report.throughput, least)
    )


def _bounds(
    known: Mapping[str, float] | None, asked: float | Percentiles | None
) -> list[tuple[Mapping[str, float], str, float]]:
    """Each percentile that is asked for; none where nothing is known."""
    if known is None or asked is None:
        return []
    if isinstance(asked, Percentiles):
        named = {name: getattr(asked, name) for name in asked.__struct_fields__}
        return [(known, name, value) for name, value in named.items() if value is not None]
    return [(known, "p50", asked)]


def _or_unknown(latency_s: float | None) -> float:
    return _UNKNOWN if latency_s is None else latency_s

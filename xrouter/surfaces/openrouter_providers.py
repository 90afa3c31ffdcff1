"""How the upstreams do: `GET providers/status`, and the figures that OpenRouter tells of each endpoint.

What is told is what this process has seen; OpenRouter's own names and units where it has them (`uptime_last_30m` in percent,
`latency_last_30m` in milliseconds to the first token, `throughput_last_30m` in tokens a second; openrouter-api.md 6).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from xrouter.context import Principal
from xrouter.filters.base import Services
from xrouter.routing.health import Percentiles, Place, PlaceReport


def measured(report: PlaceReport) -> dict[str, Any]:
    """The fields of an OpenRouter endpoint that are measured."""
    return {
        "uptime_last_5m": report.uptime_5m,
        "uptime_last_30m": report.uptime_30m,
        "uptime_last_1d": report.uptime_1d,
        "latency_last_30m": _rounded(report.latency_s, 1000),
        "throughput_last_30m": _rounded(report.throughput, 1),
    }


class ProviderStatus:
    def __init__(self, services: Services) -> None:
        self._catalog = services.catalog
        self._upstreams = services.upstreams
        self._health = services.health

    def status(self, principal: Principal) -> dict[str, Any]:
        """Each upstream that serves a model of this key, and each of those models there.

        An upstream is `ok`, `degraded` while some of them are left alone, `down` while all are.
        """
        served: dict[str, dict[Place, list[str]]] = {}
        for entry in self._catalog:
            if self._catalog.may_use(principal, entry):
                for target in self._catalog.targets(principal, entry):
                    places = served.setdefault(target.upstream, {})
                    places.setdefault((target.upstream, target.model), []).append(entry.id)
        return {"data": [self._upstream(name, served[name]) for name in self._upstreams if name in served]}

    def _upstream(self, name: str, places: Mapping[Place, list[str]]) -> dict[str, Any]:
        models = [self._model(place, ids) for place, ids in places.items()]
        alone = sum(model["state"] != "closed" for model in models)
        return {
            "name": name,
            "slug": name,
            "status": "ok" if not alone else "down" if alone == len(models) else "degraded",
            "models": models,
        }

    def _model(self, place: Place, ids: list[str]) -> dict[str, Any]:
        report = self._health.report(place)
        return {
            "model": place[1],
            "serves": ids,
            "state": report.state,
            "reason": report.reason,
            "since": _time(report.since),
            "retry_at": _time(report.retry_at),
            "last_error": report.last_error,
            "last_error_at": _time(report.last_error_at),
            "calls_active": self._health.active(place),
            **measured(report),
        }


def _rounded(percentiles: Percentiles | None, unit: float) -> dict[str, float] | None:
    if percentiles is None:
        return None
    return {name: round(value * unit, 1) for name, value in percentiles.items()}


def _time(seconds: float | None) -> str | None:
    """ISO 8601 with an offset, as OpenRouter writes times."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

"""One endpoint of OpenRouter's catalogue: a model at one of its upstreams, with its price and how it has done lately."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from xrouter.catalog import CatalogEntry
from xrouter.context import Target
from xrouter.filters.base import Services
from xrouter.ledger.prices import PriceBook, Rates
from xrouter.store.amounts import NANO_PER_CREDIT
from xrouter.surfaces.openrouter_providers import measured

_WELL: Final = 0
_LEFT_ALONE: Final = -2  # OpenRouter's statuses below 0 are those of endpoints that come after others


def plain(amount: Decimal) -> str:
    """A decimal string without an exponent and without zeros at its end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def pricing(rates: Rates) -> dict[str, str]:
    """As OpenRouter writes prices: credits per token, per request, per image."""
    unit = Decimal(rates.denominator) * NANO_PER_CREDIT
    return {
        "prompt": plain(rates.input / unit),
        "completion": plain(rates.output / unit),
        "request": plain(rates.request / unit),
        "image": plain(rates.image / unit),
        "web_search": "0",
        "internal_reasoning": plain(rates.reasoning / unit),
        "input_cache_read": plain(rates.cached_input / unit),
    }


class EndpointShapes:
    def __init__(self, services: Services) -> None:
        self._upstreams = services.upstreams
        self._health = services.health
        self._world = services.world
        self._prices = PriceBook(services.settings)

    def pricing(self, target: Target) -> dict[str, str]:
        """The price in force now, the route's own where it has one."""
        return pricing(self._prices.quote((target,), self._world.now()).prices[target].rates)

    def parameters(self, entry: CatalogEntry, target: Target) -> frozenset[str]:
        return self._upstreams[target.upstream].provider.parameters(entry.settings, target)

    def zdr(self, target: Target) -> bool:
        return self._upstreams[target.upstream].settings.zdr

    def shape(self, entry: CatalogEntry, target: Target) -> dict[str, Any]:
        model = entry.settings
        parameters = sorted(self.parameters(entry, target))
        report = self._health.report((target.upstream, target.model))
        return {
            "name": f"{target.upstream} | {entry.id}",
            "model_id": entry.id,
            "model_name": entry.name,
            "provider_name": target.upstream,
            "tag": target.upstream,
            "context_length": model.context or 0,
            "max_completion_tokens": model.max_output,
            "max_prompt_tokens": None,
            "pricing": self.pricing(target),
            "quantization": None,
            "service_tier": None,
            "status": _WELL if report.state == "closed" else _LEFT_ALONE,
            "supported_parameters": parameters,
            "supports_implicit_caching": self._upstreams[target.upstream].settings.provider == "gigachat",
            "supports_tool_choice": _choices("tool_choice" in parameters),
            "native_tools": {},
            "supports_diarization": False,
            "supports_voice_cloning": False,
            **measured(report),
        }


def _choices(chooses: bool) -> Mapping[str, bool]:
    return dict.fromkeys(("auto", "function", "none", "required"), chooses)

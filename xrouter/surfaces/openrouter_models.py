"""OpenRouter's catalogue: models, their endpoints, providers, parameters, in the shapes that its strict SDK accepts.

One list serves OpenAI's clients too: `object` and `owned_by` are added. Shapes: openrouter-api.md sections 6 and 10.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from xrouter.catalog import Catalog, CatalogEntry
from xrouter.config.settings import Price
from xrouter.context import Principal, Target
from xrouter.errors import ModelNotFound
from xrouter.filters.base import Services
from xrouter.ledger.prices import cached_input
from xrouter.surfaces.query import whole_number

_FREE = Price(input=Decimal(0))
_PAGE = 1000


def per_token(amount: Decimal, per: int) -> str:
    """A price as OpenRouter writes it: credits per token, a plain decimal string."""
    text = f"{amount / per:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def pricing(price: Price | str | None, *, bills_cached: bool) -> dict[str, str]:
    rates = price if isinstance(price, Price) else _FREE
    reasoning = rates.output if rates.reasoning is None else rates.reasoning
    return {
        "prompt": per_token(rates.input, rates.per),
        "completion": per_token(rates.output, rates.per),
        "request": per_token(rates.request, 1),
        "image": per_token(rates.image or Decimal(0), 1),
        "web_search": "0",
        "internal_reasoning": per_token(reasoning, rates.per),
        "input_cache_read": per_token(cached_input(rates, bills_cached), rates.per),
    }


class ModelShapes:
    """The catalogue of one configuration as JSON objects."""

    def __init__(self, services: Services) -> None:
        self._catalog: Catalog = services.catalog
        self._upstreams = services.upstreams

    def models(self, principal: Principal, query: Mapping[str, str]) -> dict[str, Any]:
        """`GET models`. Aliases are listed too: clients check a name against the list before they use it."""
        found = [model for model in self._all(principal) if _matches(model, query)]
        found.sort(key=_ORDERS.get(query.get("sort", ""), _by_nothing))
        offset, limit = whole_number(query, "offset", 0, 10**6), whole_number(query, "limit", _PAGE, _PAGE)
        page = found[offset : offset + limit]
        after = offset + len(page)
        following = f"?offset={after}&limit={limit}" if after < len(found) and page else None
        return {"object": "list", "data": page, "total_count": len(found), "links": {"next": following}}

    def count(self, principal: Principal, query: Mapping[str, str]) -> dict[str, Any]:
        return {"data": {"count": sum(_matches(model, query) for model in self._all(principal))}}

    def embedding_models(self, principal: Principal) -> dict[str, Any]:
        found = [model for model in self._all(principal) if "embeddings" in model["architecture"]["output_modalities"]]
        return {"object": "list", "data": found, "total_count": len(found), "links": {"next": None}}

    def model(self, principal: Principal, name: str) -> dict[str, Any]:
        return self._model(self.entry(principal, name), name)

    def endpoints(self, principal: Principal, name: str) -> dict[str, Any]:
        """`GET models/{author}/{slug}/endpoints`."""
        entry = self.entry(principal, name)
        model = self._model(entry, entry.id)
        described = {key: model[key] for key in ("id", "name", "created", "description", "architecture")}
        return {
            "data": {
                **described,
                "endpoints": [self._endpoint(entry, target) for target in self._catalog.targets(principal, entry)],
            }
        }

    def parameters(self, principal: Principal, name: str) -> dict[str, Any]:
        """`GET parameters/{model}`: what the model honours at each of its upstreams or more, and where at least one does."""
        entry = self.entry(principal, name)
        return {"data": {"model": entry.id, "supported_parameters": self._parameters(entry)}}

    def providers(self) -> dict[str, Any]:
        """`GET providers`: the configured upstreams, by the names that `provider` preferences take."""
        return {
            "data": [
                {
                    "name": name,
                    "slug": name,
                    "privacy_policy_url": None,
                    "terms_of_service_url": None,
                    "status_page_url": None,
                    "headquarters": None,
                    "datacenters": None,
                }
                for name in self._upstreams
            ]
        }

    def entry(self, principal: Principal, name: str) -> CatalogEntry:
        """Raises ModelNotFound, also for a model outside the key's scope: its existence is none of that key's business."""
        entry, _ = self._catalog.asked(name)
        if entry is None or not self._catalog.may_use(principal, entry):
            raise ModelNotFound(f"There is no model {name[:128]!r}", param="model")
        return entry

    def _all(self, principal: Principal) -> Iterable[dict[str, Any]]:
        for name, entry in self._catalog.names():
            if self._catalog.may_use(principal, entry):
                yield self._model(entry, name)

    def _parameters(self, entry: CatalogEntry) -> list[str]:
        sets = [self._upstreams[t.upstream].provider.parameters(entry.settings, t) for t in entry.targets]
        return sorted(frozenset().union(*sets))

    def _bills_cached(self, target: Target) -> bool:
        return self._upstreams[target.upstream].settings.bills_cached_input

    def _architecture(self, entry: CatalogEntry) -> dict[str, Any]:
        model = entry.settings
        output = "embeddings" if model.kind == "embedding" else "text"
        return {
            "modality": f"{'+'.join(model.inputs)}->{output}",
            "input_modalities": list(model.inputs),
            "output_modalities": [output],
            "tokenizer": "Other",
            "instruct_type": None,
        }

    def _model(self, entry: CatalogEntry, name: str) -> dict[str, Any]:
        model = entry.settings
        shape: dict[str, Any] = {
            "id": name,
            "object": "model",
            "owned_by": entry.id.partition("/")[0],
            "canonical_slug": entry.id,
            "name": entry.name,
            "created": model.created,
            "description": model.description or "",
            "context_length": model.context,
            "architecture": self._architecture(entry),
            "pricing": pricing(model.price, bills_cached=self._bills_cached(entry.targets[0])),
            "top_provider": {
                "context_length": model.context,
                "max_completion_tokens": model.max_output,
                "is_moderated": False,
            },
            "per_request_limits": None,
            "supported_parameters": self._parameters(entry),
            "default_parameters": None,
            "supported_voices": None,
            "links": {"details": f"/api/v1/models/{entry.id}/endpoints"},
        }
        if name != entry.id:
            shape["alias_target"] = {"name": entry.name, "slug": entry.id}
        return shape

    def _endpoint(self, entry: CatalogEntry, target: Target) -> dict[str, Any]:
        model = entry.settings
        parameters = sorted(self._upstreams[target.upstream].provider.parameters(model, target))
        chooses = "tool_choice" in parameters
        return {
            "name": f"{target.upstream} | {entry.id}",
            "model_id": entry.id,
            "model_name": entry.name,
            "provider_name": target.upstream,
            "tag": target.upstream,
            "context_length": model.context or 0,
            "max_completion_tokens": model.max_output,
            "max_prompt_tokens": None,
            "pricing": pricing(model.price, bills_cached=self._bills_cached(target)),
            "quantization": None,
            "service_tier": None,
            "status": 0,
            "supported_parameters": parameters,
            "supports_implicit_caching": self._upstreams[target.upstream].settings.provider == "gigachat",
            "supports_tool_choice": dict.fromkeys(("auto", "function", "none", "required"), chooses),
            "native_tools": {},
            "supports_diarization": False,
            "supports_voice_cloning": False,
            "uptime_last_5m": None,
            "uptime_last_30m": None,
            "uptime_last_1d": None,
            "latency_last_30m": None,
            "throughput_last_30m": None,
        }


def _matches(model: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    """OpenRouter's filters of the list; an unknown one is ignored, as there."""
    wanted = query.get("q", "").lower()
    if wanted and wanted not in model["id"].lower() and wanted not in model["name"].lower():
        return False
    for name, have in (
        ("supported_parameters", model["supported_parameters"]),
        ("input_modalities", model["architecture"]["input_modalities"]),
        ("output_modalities", model["architecture"]["output_modalities"]),
    ):
        asked = query.get(name)
        if asked and asked != "all" and not set(asked.split(",")) <= set(have):
            return False
    return (model["context_length"] or 0) >= whole_number(query, "context", 0, 10**9)


def _by_nothing(model: Mapping[str, Any]) -> int:
    return 0


_ORDERS = {
    "name": lambda model: model["name"],
    "context": lambda model: -(model["context_length"] or 0),
    "pricing": lambda model: Decimal(model["pricing"]["prompt"]),
    "created": lambda model: -model["created"],
}

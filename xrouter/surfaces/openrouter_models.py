"""OpenRouter's catalogue: models, their endpoints, providers, parameters, in the shapes that its strict SDK accepts.

One list serves OpenAI's clients too: `object` and `owned_by` are added. Shapes: openrouter-api.md sections 6 and 10.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xrouter.catalog import Catalog, CatalogEntry
from xrouter.context import Principal, Target
from xrouter.errors import ModelNotFound
from xrouter.filters.base import Services
from xrouter.surfaces.openrouter_endpoints import EndpointShapes
from xrouter.surfaces.openrouter_model_list import Listed, order, wanted
from xrouter.surfaces.query import whole_number

_PAGE = 1000


class ModelShapes:
    """The catalogue of one configuration as JSON objects."""

    def __init__(self, services: Services) -> None:
        self._catalog: Catalog = services.catalog
        self._upstreams = services.upstreams
        self._health = services.health
        self._endpoints = EndpointShapes(services)

    def models(self, principal: Principal, query: Mapping[str, str]) -> dict[str, Any]:
        """`GET models`. Aliases are listed too: clients check a name against the list before they use it."""
        found = self._listed(principal, query)
        offset, limit = whole_number(query, "offset", 0, 10**6), whole_number(query, "limit", _PAGE, _PAGE)
        page = found[offset : offset + limit]
        after = offset + len(page)
        following = f"?offset={after}&limit={limit}" if after < len(found) and page else None
        return {"object": "list", "data": page, "total_count": len(found), "links": {"next": following}}

    def count(self, principal: Principal, query: Mapping[str, str]) -> dict[str, Any]:
        return {"data": {"count": len(self._listed(principal, query))}}

    def embedding_models(self, principal: Principal) -> dict[str, Any]:
        found = self._listed(principal, {"output_modalities": "embeddings"})
        return {"object": "list", "data": found, "total_count": len(found), "links": {"next": None}}

    def model(self, principal: Principal, name: str) -> dict[str, Any]:
        entry = self.entry(principal, name)
        return self._model(entry, name, self._catalog.targets(principal, entry))

    def endpoints(self, principal: Principal, name: str) -> dict[str, Any]:
        """`GET models/{author}/{slug}/endpoints`."""
        entry = self.entry(principal, name)
        targets = self._catalog.targets(principal, entry)
        model = self._model(entry, entry.id, targets)
        described = {key: model[key] for key in ("id", "name", "created", "description", "architecture")}
        return {"data": {**described, "endpoints": [self._endpoints.shape(entry, target) for target in targets]}}

    def zdr_endpoints(self, principal: Principal) -> dict[str, Any]:
        """`GET endpoints/zdr`: those that keep nothing of what they are sent."""
        found = [
            self._endpoints.shape(entry, target)
            for entry in self._catalog
            if self._catalog.may_use(principal, entry)
            for target in self._catalog.targets(principal, entry)
            if self._endpoints.zdr(target)
        ]
        return {"data": found}

    def parameters(self, principal: Principal, name: str) -> dict[str, Any]:
        """`GET parameters/{model}`: what the model honours at each of its upstreams or more, and where at least one does."""
        entry = self.entry(principal, name)
        parameters = self._parameters(entry, self._catalog.targets(principal, entry))
        return {"data": {"model": entry.id, "supported_parameters": parameters}}

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

    def _listed(self, principal: Principal, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """The models that the query wants, in its order."""
        wants = wanted(query)
        found = [listed for listed in self._all(principal) if wants(listed)]
        found.sort(key=order(query))
        return [listed.shape for listed in found]

    def _all(self, principal: Principal) -> Iterable[Listed]:
        for name, entry in self._catalog.names():
            if self._catalog.may_use(principal, entry):
                targets = self._catalog.targets(principal, entry)
                places = [(target.upstream, target.model) for target in targets]
                latencies = [known for place in places if (known := self._health.latency_s(place)) is not None]
                throughputs = [known for place in places if (known := self._health.throughput(place)) is not None]
                yield Listed(
                    shape=self._model(entry, name, targets),
                    upstreams=frozenset(target.upstream for target in targets),
                    zdr=any(self._endpoints.zdr(target) for target in targets),
                    latency_s=min(latencies, default=None),
                    throughput=max(throughputs, default=None),
                )

    def _parameters(self, entry: CatalogEntry, targets: Sequence[Target]) -> list[str]:
        return sorted(frozenset().union(*(self._endpoints.parameters(entry, target) for target in targets)))

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

    def _model(self, entry: CatalogEntry, name: str, targets: Sequence[Target]) -> dict[str, Any]:
        """The price is that of the first of `targets`, those that may serve whoever asks."""
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
            "pricing": self._endpoints.pricing(targets[0]),
            "top_provider": {
                "context_length": model.context,
                "max_completion_tokens": model.max_output,
                "is_moderated": False,
            },
            "per_request_limits": None,
            "supported_parameters": self._parameters(entry, targets),
            "default_parameters": None,
            "supported_voices": None,
            "links": {"details": f"/api/v1/models/{entry.id}/endpoints"},
        }
        if name != entry.id:
            shape["alias_target"] = {"name": entry.name, "slug": entry.id}
        return shape

"""The models that clients may ask for: ids, aliases and variants, each resolved to the places that serve it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from xrouter.config.settings import DEFAULT_TIER, ModelSettings, RouteSettings, Settings
from xrouter.context import Principal, Target

Sort = Literal["price", "throughput", "latency"]
"""By what a client wants its upstreams ordered."""

_SORTS: Final[Mapping[str, Sort]] = {"floor": "price", "nitro": "throughput"}
"""OpenRouter's suffixes that any model's name takes: they choose an order and not a model."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One servable model. `id` is its public name (`author/slug`, with `:variant` where it is one).

    `routes` are as configured, each with its target; `targets` those of them that clients are answered from: no shadows.
    """

    id: str
    settings: ModelSettings
    routes: tuple[tuple[RouteSettings, Target], ...]
    variant: str | None = None
    targets: tuple[Target, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(target for route, target in self.routes if not route.shadow))

    @property
    def name(self) -> str:
        name = self.settings.name or self.id.partition(":")[0]
        return f"{name} ({self.variant})" if self.variant else name


class Catalog:
    """Every name is matched exactly: no case folding and no Unicode normalisation, so one name means one model (F35)."""

    def __init__(self, settings: Settings) -> None:
        self._entries: dict[str, CatalogEntry] = {}
        self._names: dict[str, CatalogEntry] = {}
        for model_id, model in settings.models.items():
            self._add(model_id, model, None, None)
            for variant, branch in model.variants.items():
                self._add(model_id, model, variant, branch)
        tiers = settings.tiers.items()
        self._tier_models = {name: frozenset(tier.models) for name, tier in tiers if tier.models is not None}
        self._tier_upstreams = {name: frozenset(tier.upstreams) for name, tier in tiers if tier.upstreams is not None}

    def _add(self, model_id: str, model: ModelSettings, variant: str | None, branch: str | None) -> None:
        suffix = f":{variant}" if variant else ""
        public = model_id + suffix
        routes = tuple(
            (
                route,
                Target(
                    upstream=route.upstream,
                    model=f"{route.model}/{branch}" if branch else route.model,
                    public_model=public,
                    surface=route.surface,
                ),
            )
            for route in model.routes
        )
        entry = CatalogEntry(public, model, routes, variant)
        self._entries[public] = entry
        for name in (model_id, *model.aliases):
            if not (suffix and ":" in name):  # an alias that names a variant has no variants of its own
                self._names.setdefault(name + suffix, entry)

    def resolve(self, name: str) -> CatalogEntry | None:
        """The model called `name`: an id, an alias, or either with a variant's suffix."""
        return self._names.get(name)

    def asked(self, name: str) -> tuple[CatalogEntry | None, Sort | None]:
        """The model that a request for `name` means, and the order of upstreams that `:floor` or `:nitro` asks for.

        A name that is configured with such a suffix is that model, and no order.
        """
        entry = self._names.get(name)
        if entry is None:
            base, _, suffix = name.rpartition(":")
            sort = _SORTS.get(suffix)
            if sort is not None:
                return self._names.get(base), sort
        return entry, None

    def may_use(self, principal: Principal, entry: CatalogEntry) -> bool:
        """Whether the key's scope and its tier have this model, and the tier an upstream that serves it."""
        tier = principal.tier or DEFAULT_TIER
        if not (_has(principal.models, entry) and _has(self._tier_models.get(tier), entry)):
            return False
        upstreams = self._tier_upstreams.get(tier)
        return upstreams is None or any(target.upstream in upstreams for target in entry.targets)

    def upstreams(self, principal: Principal) -> frozenset[str] | None:
        """Those that serve keys of this tier; None: all."""
        return self._tier_upstreams.get(principal.tier or DEFAULT_TIER)

    def targets(self, principal: Principal, entry: CatalogEntry) -> tuple[Target, ...]:
        """Those of the entry's targets that may serve this key."""
        upstreams = self.upstreams(principal)
        if upstreams is None:
            return entry.targets
        return tuple(target for target in entry.targets if target.upstream in upstreams)

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self._entries.values())

    def names(self) -> Iterable[tuple[str, CatalogEntry]]:
        """Every name that can be asked for, with what it means."""
        return self._names.items()

    def places(self) -> set[tuple[str, str]]:
        """Every upstream with each of its models that a route names, shadows included."""
        return {(target.upstream, target.model) for entry in self for _, target in entry.routes}

    def entries(self) -> Mapping[str, CatalogEntry]:
        """By public id."""
        return self._entries


def _has(allowed: frozenset[str] | None, entry: CatalogEntry) -> bool:
    """Whether a list of models has this one: by id, by the id without its variant, or by the author as `author/*`."""
    if allowed is None:
        return True
    base = entry.id.partition(":")[0]
    return entry.id in allowed or base in allowed or base.partition("/")[0] + "/*" in allowed

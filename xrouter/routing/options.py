"""What a request may choose from: each model's routes, with all that choosing reads of them, made once per configuration."""

from collections.abc import Mapping
from dataclasses import dataclass

from xrouter.catalog import CatalogEntry
from xrouter.config.settings import Balance
from xrouter.context import Target
from xrouter.providers.upstreams import Upstream
from xrouter.routing.chance import seed_of
from xrouter.routing.health import Place


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """One route of one model. `names`: what a request may call it by, its upstream and that one's provider."""

    target: Target
    place: Place
    provider: str
    names: frozenset[str]
    weight: int
    canary: float  # percent
    shadow: float  # percent
    seed: int  # of its place: the same in every process, as rendezvous hashing needs it
    parameters: frozenset[str]  # request fields that have an effect there
    keeps_data: bool  # whether it may keep what it is sent, though the request says `data_collection: deny`
    zdr: bool


@dataclass(frozen=True, slots=True, eq=False)
class ModelOptions:
    """One model's routes: `answering` in the order as written, and the `shadows`, which answer nobody."""

    entry: CatalogEntry
    answering: tuple[Option, ...]
    shadows: tuple[Option, ...]
    balance: Balance
    has_canary: bool
    seed: int  # of the model


def options_of(entry: CatalogEntry, upstreams: Mapping[str, Upstream]) -> ModelOptions:
    weights = [route.weight for route, _ in entry.routes]
    options = tuple(
        _option(entry, target, 1 if route.weight is None else route.weight, route.canary, route.shadow, upstreams)
        for route, target in entry.routes
    )
    answering = tuple(option for option in options if not option.shadow)
    return ModelOptions(
        entry=entry,
        answering=answering,
        shadows=tuple(option for option in options if option.shadow),
        balance=entry.settings.balance or ("order" if all(weight is None for weight in weights) else "weighted"),
        has_canary=any(option.canary for option in answering),
        seed=seed_of(entry.id),
    )


def _option(
    entry: CatalogEntry, target: Target, weight: int, canary: float, shadow: float, upstreams: Mapping[str, Upstream]
) -> Option:
    upstream = upstreams[target.upstream]
    settings = upstream.settings
    return Option(
        target=target,
        place=(target.upstream, target.model),
        provider=settings.provider,
        names=frozenset({target.upstream, settings.provider}),
        weight=weight,
        canary=canary,
        shadow=shadow,
        seed=seed_of(target.upstream, target.model, target.surface or ""),
        parameters=upstream.provider.parameters(entry.settings, target),
        keeps_data=not settings.obeys_deny if settings.data_collection is None else settings.data_collection == "allow",
        zdr=settings.zdr,
    )

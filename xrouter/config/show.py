"""What a configuration means, for `xrouter check`: the chain as it will run, the upstreams, the models. No secrets."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from xrouter.config.decode import hints, is_secret
from xrouter.config.order import DISPATCH_NEEDS
from xrouter.config.settings import ModelSettings, Price, Rates, Settings, UpstreamSettings
from xrouter.secret import Secret, each

Plain = str | int | float | bool | None | list[Any] | dict[str, Any]

_USER: Final = re.compile(r"://[^/?#]*@")
_FRAME_PROVIDES: Final = ("outcome",)


class ChainStep(msgspec.Struct, frozen=True):
    name: str
    needs: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    config: dict[str, Plain] = {}
    place: str | None = None  # file:line:column; None: of the frame, in every configuration


class UpstreamSummary(msgspec.Struct, frozen=True):
    """`credentials`: each key of the upstream that holds a secret, and whether it is set."""

    name: str
    provider: str
    base_url: str
    credentials: dict[str, bool]
    settings: dict[str, Plain]


class ModelSummary(msgspec.Struct, frozen=True):
    """`routes` in their order: `upstream: model`. Prices in credits, as written; `other_prices`: when and where."""

    id: str
    kind: str
    names: tuple[str, ...]
    routes: tuple[str, ...]
    price: str
    other_prices: dict[str, str] = {}


class Summary(msgspec.Struct, frozen=True):
    """`address` is where the gateway will listen. `store` and `redis` are shown without their passwords."""

    address: str
    workers: int
    store: str
    redis: str | None
    chain: tuple[ChainStep, ...]
    upstreams: tuple[UpstreamSummary, ...]
    models: tuple[ModelSummary, ...]
    tiers: dict[str, Plain]


def summarise(settings: Settings) -> Summary:
    return Summary(
        address=f"{settings.server.host}:{settings.server.port}",
        workers=settings.server.workers,
        store=_without_password(settings.store),
        redis=_without_password(settings.redis) if settings.redis else None,
        chain=tuple(_chain(settings)),
        upstreams=tuple(_upstream(name, upstream) for name, upstream in settings.upstreams.items()),
        models=tuple(_model(model_id, model) for model_id, model in settings.models.items()),
        tiers={name: plain(tier) for name, tier in settings.tiers.items()},
    )


def describe_json(settings: Settings) -> bytes:
    """The summary as one JSON object."""
    return msgspec.json.encode(summarise(settings))


def describe(settings: Settings) -> str:
    """The summary for a person to read."""
    return "\n".join(_lines(summarise(settings)))


def _chain(settings: Settings) -> Iterator[ChainStep]:
    yield ChainStep("edge")
    for entry in settings.filters:
        needs, provides = tuple(sorted(entry.filter.needs)), tuple(sorted(entry.filter.provides))
        config = {field.name: plain(getattr(entry.config, field.name)) for field in fields(entry.config)}
        yield ChainStep(entry.name, needs, provides, config, entry.place)
    yield ChainStep("dispatch", tuple(sorted(DISPATCH_NEEDS)), _FRAME_PROVIDES)


def _upstream(name: str, upstream: UpstreamSettings) -> UpstreamSummary:
    credentials: dict[str, bool] = {}
    settings: dict[str, Plain] = {}
    annotations = hints(type(upstream))
    for field in fields(upstream):
        value = getattr(upstream, field.name)
        if is_secret(annotations[field.name]):
            credentials[field.name] = bool(each(value))
        elif field.name not in ("provider", "base_url"):
            settings[field.name] = plain(value)
    return UpstreamSummary(name, upstream.provider, upstream.base_url, credentials, settings)


def _model(model_id: str, model: ModelSettings) -> ModelSummary:
    bases = (model_id, *model.aliases)
    plain = [base for base in bases if ":" not in base]
    names = dict.fromkeys((*bases, *(f"{base}:{variant}" for variant in model.variants for base in plain)))
    routes = tuple(
        f"{route.upstream}: {route.model}"
        + (f" ({route.surface})" if route.surface else "")
        + (f" ×{route.weight}" if route.weight is not None else "")
        + (f", canary {route.canary:g} %" if route.canary else "")
        + (f", shadow {route.shadow:g} %" if route.shadow else "")
        for route in model.routes
    )
    return ModelSummary(model_id, model.kind, tuple(names), routes, _price(model.price), _other_prices(model))


def _other_prices(model: ModelSettings) -> dict[str, str]:
    """In the order in which they give way: by date, by variant, by route."""
    dated = {f"from {price.since}": _rates(price) for price in model.price_changes}
    variants = {f"of :{name}": _price(price) for name, price in model.variant_prices.items()}
    routes = {f"at {route.upstream}: {route.model}": _price(route.price) for route in model.routes if route.price}
    return dated | variants | routes


def _price(price: Price | str | None) -> str:
    if not isinstance(price, Price):
        return str(price)
    return _rates(price) + (f", since {price.since}" if price.since else "")


def _rates(price: Rates) -> str:
    parts = [
        f"{field.name} {getattr(price, field.name)}"
        for field in fields(Rates)
        if field.name != "per" and getattr(price, field.name) not in (None, field.default)
    ]
    text = f"{', '.join(parts)} per {price.per} tokens"
    return text + (f"; costs {_rates(price.cost)}" if isinstance(price, Price) and price.cost else "")


def plain(value: Any) -> Plain:
    """`value` as JSON can hold it, secrets as whether they are set."""
    if isinstance(value, Secret):
        return "set" if value else "not set"
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, str):
        return _without_password(value)
    assert value is None or isinstance(value, int | float), type(value)
    return value


def _without_password(text: str) -> str:
    """An address without the user, password and query that it may hold; any other text as it is."""
    if "://" not in text:
        return text
    address, query, _ = _USER.sub("://***@", text).partition("?")
    return f"{address}?…" if query else address


def _lines(summary: Summary) -> Iterator[str]:
    workers = f"{summary.workers} worker{'s' if summary.workers > 1 else ''}"
    yield f"listens on {summary.address}, {workers}; store {summary.store}; redis {summary.redis or 'none'}"
    yield ""
    yield "chain, outermost first"
    width = max(len(step.name) for step in summary.chain)
    for step in summary.chain:
        yield f"  {step.name:{width}}  {_facts(step)}".rstrip()
        yield from (f"  {'':{width}}    {key}: {compact(value)}" for key, value in step.config.items())
    yield ""
    yield "upstreams"
    for upstream in summary.upstreams:
        yield f"  {upstream.name}: {upstream.provider} at {upstream.base_url}"
        yield f"    credentials: {_credentials(upstream.credentials)}"
        yield from (f"    {key}: {compact(value)}" for key, value in upstream.settings.items() if value is not None)
    yield ""
    yield "models"
    for model in summary.models:
        yield f"  {model.id} ({model.kind}): {' → '.join(model.routes)}"
        if len(model.names) > 1:
            yield f"    also called {', '.join(model.names[1:])}"
        yield f"    price: {model.price}"
        yield from (f"    price {where}: {price}" for where, price in model.other_prices.items())
    if summary.tiers:
        yield ""
        yield "tiers"
        yield from (f"  {name}: {compact(tier)}" for name, tier in summary.tiers.items())


def _facts(step: ChainStep) -> str:
    parts = []
    if step.needs:
        parts.append(f"needs {', '.join(step.needs)}")
    if step.provides:
        parts.append(f"provides {', '.join(step.provides)}")
    return "; ".join(parts)


def _credentials(credentials: Mapping[str, bool]) -> str:
    given = [name for name, is_set in credentials.items() if is_set]
    missing = [name for name, is_set in credentials.items() if not is_set]
    parts = [f"{', '.join(given)} set" if given else "none set"]
    if missing:
        parts.append(f"not set: {', '.join(missing)}")
    return "; ".join(parts)


def compact(value: Plain) -> str:
    """In one line, as YAML would have it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {compact(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(compact, value)) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)

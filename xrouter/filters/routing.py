"""Which upstreams serve this call, in which order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Final

from xrouter.catalog import CatalogEntry, may_use
from xrouter.context import Call, Principal, Route, Target, context
from xrouter.errors import BadRequest, Forbidden, ModelNotFound, NotFound
from xrouter.filters.base import ASGIApp, Receive, Scope, Send, Services
from xrouter.ledger.prices import PriceBook, Rates
from xrouter.routing.health_settings import BreakerSettings, HealthSettings, OutlierSettings
from xrouter.store.amounts import NANO_PER_CREDIT
from xrouter.wire import ChatRequest, MaxPrice, ProviderPreferences

_NANO_PER_TOKEN: Final = NANO_PER_CREDIT // 10**6  # of one credit per million tokens

_NO_PREFERENCES = ProviderPreferences()
# Fields of a request that every upstream serves or that the gateway answers itself: never a reason to leave one out.
_ALWAYS_HONOURED = frozenset(
    {
        "model", "models", "messages", "prompt", "input", "stream", "stream_options", "provider", "user", "session_id",
        "metadata", "usage", "route", "trace", "transforms", "preset",
    }
)  # fmt: skip


class Routing:
    """Provide `route`: the targets of `model` and `models[]`, as `provider` prefers them, those in trouble last."""

    needs: ClassVar[frozenset[str]] = frozenset({"principal", "call"})
    provides: ClassVar[frozenset[str]] = frozenset({"route"})

    @dataclass(frozen=True, slots=True)
    class Config:
        retries: int = 2  # rounds over the targets after the first
        fallback: bool = True  # whether another target may serve when one fails
        breaker: BreakerSettings = field(default_factory=BreakerSettings)
        outlier: OutlierSettings | None = field(default_factory=OutlierSettings)
        panic: float = 0.5

        def __post_init__(self) -> None:
            HealthSettings(panic=self.panic)
            if not 0 <= self.retries <= 10:
                raise ValueError("retries has to be between 0 and 10")

    def __init__(self, app: ASGIApp, config: Config, services: Services) -> None:
        self.app, self.config = app, config
        self.catalog = services.catalog
        self.upstreams = services.upstreams
        self.health = services.health
        self.health.configure(HealthSettings(config.breaker, config.outlier, config.panic))
        self.prices = PriceBook(services.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        call = ctx.call
        preferences = call.request.provider or _NO_PREFERENCES
        entries = self._entries(call, ctx.principal)
        targets = [target for entry in entries for target in self._of(entry, call, preferences, ctx.started_at)]
        if not targets:
            raise NotFound("No upstream fits the request's `provider` preferences", param="provider")
        fallback = self.config.fallback and preferences.allow_fallbacks is not False
        ctx.route = Route(
            requested=entries[0].id if not call.request.model else call.request.model,
            targets=tuple(self._healthy_first(targets) if fallback else targets[:1]),
            retries=self.config.retries,
            fallback=fallback,
        )
        await self.app(scope, receive, send)

    def _entries(self, call: Call, principal: Principal) -> list[CatalogEntry]:
        """The models asked for. One unknown or forbidden name among several is passed over; if none is left, that is why."""
        entries: list[CatalogEntry] = []
        refusal: ModelNotFound | Forbidden | BadRequest | None = None
        for name in call.models:
            entry = self.catalog.resolve(name)
            if entry is None:
                refusal = refusal or ModelNotFound(f"There is no model {name[:128]!r}", param="model")
            elif not may_use(principal, entry):
                refusal = refusal or Forbidden(f"This key may not use the model {name!r}", param="model")
            elif (entry.settings.kind == "embedding") != (call.kind == "embeddings"):
                refusal = refusal or BadRequest(f"{name!r} is no model for this endpoint", param="model")
            elif entry not in entries:
                entries.append(entry)
        if not entries:
            assert refusal is not None
            raise refusal
        return entries

    def _of(self, entry: CatalogEntry, call: Call, preferences: ProviderPreferences, at_s: float) -> list[Target]:
        """This model's targets that the preferences leave, in the preferred order: `order` before `sort` by price.

        `sort` by throughput or latency changes nothing: nothing is known of them yet.
        """
        if needs_images(call) and "image" not in entry.settings.inputs:
            raise BadRequest(f"{entry.id} takes no images", param="messages")
        targets: Iterable[Target] = entry.targets
        if preferences.only is not None:
            targets = [target for target in targets if self._called(target, preferences.only)]
        if preferences.ignore:
            targets = [target for target in targets if not self._called(target, preferences.ignore)]
        if preferences.require_parameters:
            asked = asked_parameters(call)
            targets = [target for target in targets if asked <= self.parameters(entry, target)]
        if preferences.max_price is not None or _by_price(preferences):
            prices = {target: found.rates for target, found in self.prices.quote(targets, at_s).prices.items()}
            if preferences.max_price is not None:
                most = preferences.max_price
                targets = [target for target in targets if _within(prices[target], most)]
            if _by_price(preferences):
                targets = sorted(targets, key=lambda target: _price(prices[target]))
        if preferences.order:
            wanted = preferences.order
            targets = sorted(targets, key=lambda target: self._place(target, wanted))
        return list(targets)

    def parameters(self, entry: CatalogEntry, target: Target) -> frozenset[str]:
        return self.upstreams[target.upstream].provider.parameters(entry.settings, target)

    def _called(self, target: Target, names: Sequence[str]) -> bool:
        """An upstream is meant by its own name or by its provider's."""
        return target.upstream in names or self.upstreams[target.upstream].settings.provider in names

    def _place(self, target: Target, order: Sequence[str]) -> int:
        return next((place for place, name in enumerate(order) if self._called(target, [name])), len(order))

    def _healthy_first(self, targets: Sequence[Target]) -> list[Target]:
        """Those that are left alone go last, but stay: with nothing better, a try is better than a refusal."""
        alone = self.health.left_alone([(target.upstream, target.model) for target in targets])
        return sorted(targets, key=lambda target: (target.upstream, target.model) in alone)


def _by_price(preferences: ProviderPreferences) -> bool:
    sort = preferences.sort
    return (sort.get("by") if isinstance(sort, dict) else sort) == "price"


def _price(rates: Rates) -> Fraction:
    return Fraction(rates.input + rates.output, rates.denominator)


def _within(rates: Rates, most: MaxPrice) -> bool:
    """Whether nothing costs more than the client will pay: credits per million tokens, per request, per image."""
    limits = (
        (rates.input, most.prompt, _NANO_PER_TOKEN),
        (rates.output, most.completion, _NANO_PER_TOKEN),
        (rates.request, most.request, NANO_PER_CREDIT),
        (rates.image, most.image, NANO_PER_CREDIT),
    )
    return all(limit is None or rate <= limit * nano * rates.denominator for rate, limit, nano in limits)


def needs_images(call: Call) -> bool:
    return isinstance(call.request, ChatRequest) and any(
        part.type == "image_url"
        for message in call.request.messages
        if isinstance(message.content, list)
        for part in message.content
    )


def asked_parameters(call: Call) -> frozenset[str]:
    """The request's fields that an upstream has to honour under `provider.require_parameters`."""
    asked = {name for name, value in call.body.items() if value is not None} - _ALWAYS_HONOURED
    response_format = getattr(call.request, "response_format", None)
    if response_format is not None and response_format.type == "json_schema":
        asked.add("structured_outputs")
    return frozenset(asked)

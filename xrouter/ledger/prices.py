"""From prices in credits to whole nanocredits, exactly.

The rule of rounding, once and for all: the parts of a generation (tokens of each class, images, the request itself) are
added as exact fractions, and the sum is rounded up to a whole nanocredit. Nothing is rounded before.

A price is fixed when a request is admitted (`PriceBook.quote`) and is kept under its version, the hash of what it says, so
that every charge can be computed again from the version and the usage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from math import lcm
from typing import Final, Literal

import msgspec

from xrouter.config import settings
from xrouter.config.settings import ModelSettings, Settings
from xrouter.context import Cost, Target
from xrouter.errors import UpstreamProtocolError
from xrouter.events import Usage
from xrouter.ledger.book import LARGEST_NANO
from xrouter.store.amounts import NANO_PER_CREDIT
from xrouter.store.ledger_rows import PriceVersion

_GARBAGE: Final = "The upstream's token counts cannot be right"
_MOST_TOKENS: Final = 2**40  # no model's answer comes near; what claims to is garbage (F07, incident I-11)
FREE: Final = settings.Price(input=Decimal(0))


def cached_input(price: settings.Rates, bills_cached: bool) -> Decimal:
    """What a cached token of input costs: as the price says, else as the provider's custom is."""
    if price.cached_input is not None:
        return price.cached_input
    return price.input if bills_cached else Decimal(0)


class Rates(msgspec.Struct, frozen=True):
    """What each thing costs: `numerator / denominator` nanocredits. JSON of it is kept with the price's version."""

    denominator: int
    input: int
    cached_input: int
    output: int
    reasoning: int
    image: int
    request: int

    @classmethod
    def of(cls, price: settings.Rates, *, bills_cached: bool = True) -> "Rates":
        """`bills_cached`: whether cached input costs what other input does where the price does not say."""
        per_token = {
            "input": price.input,
            "cached_input": cached_input(price, bills_cached),
            "output": price.output,
            "reasoning": price.output if price.reasoning is None else price.reasoning,
        }
        exact = {name: Fraction(credits) * NANO_PER_CREDIT / price.per for name, credits in per_token.items()}
        exact["image"] = Fraction(price.image or 0) * NANO_PER_CREDIT
        exact["request"] = Fraction(price.request) * NANO_PER_CREDIT
        denominator = lcm(*(rate.denominator for rate in exact.values()))
        return cls(denominator, **{name: int(rate * denominator) for name, rate in exact.items()})

    def cost(self, usage: Usage, images: int = 0) -> int:
        """Nanocredits for `usage`. Raises UpstreamProtocolError for counts that cannot be right.

        More cached tokens than input, or more reasoning than output, are taken as all of it.
        """
        nano = self._nano(
            usage.input_tokens, usage.output_tokens, usage.cached_tokens or 0, usage.reasoning_tokens or 0, images
        )
        if nano > LARGEST_NANO:
            raise UpstreamProtocolError(_GARBAGE, detail=f"{usage} costs {nano}")
        return nano

    def most(self, input_tokens: int, output_tokens: int, images: int = 0) -> int:
        """The most that so many tokens can cost, whatever part of the output is reasoning.

        Never more than the largest amount: what is more than that cannot be afforded either.
        """
        output_tokens = min(output_tokens, _MOST_TOKENS)
        reasoning = output_tokens if self.reasoning > self.output else 0
        return min(self._nano(input_tokens, output_tokens, 0, reasoning, images), LARGEST_NANO)

    def _nano(self, input_tokens: int, output_tokens: int, cached: int, reasoning: int, images: int) -> int:
        if not (
            0 <= input_tokens <= _MOST_TOKENS
            and 0 <= output_tokens <= _MOST_TOKENS
            and 0 <= cached <= _MOST_TOKENS
            and 0 <= reasoning <= _MOST_TOKENS
            and 0 <= images <= _MOST_TOKENS
        ):
            counts = (input_tokens, output_tokens, cached, reasoning, images)
            raise UpstreamProtocolError(_GARBAGE, detail=f"input, output, cached, reasoning, images: {counts}")
        if cached > input_tokens:
            cached = input_tokens
        if reasoning > output_tokens:
            reasoning = output_tokens
        exact = (
            self.input * (input_tokens - cached)
            + self.cached_input * cached
            + self.output * (output_tokens - reasoning)
            + self.reasoning * reasoning
            + self.image * images
            + self.request
        )
        return -(-exact // self.denominator)

    def output_part(self, usage: Usage) -> int:
        """Of `cost(usage)`, what is for the output: rounded up, so the other part is never negative."""
        reasoning = min(usage.reasoning_tokens or 0, usage.output_tokens)
        exact = self.output * (usage.output_tokens - reasoning) + self.reasoning * reasoning
        return -(-exact // self.denominator)

    def affordable_output(self, nano: int, input_tokens: int, images: int = 0) -> int | None:
        """How many tokens of output `nano` pays for, besides the input; None: any number, since output is free."""
        dearest = max(self.output, self.reasoning)
        if dearest == 0:
            return None
        spent = self.input * input_tokens + self.image * images + self.request
        return max(0, (nano * self.denominator - spent) // dearest)


class _Sheet(msgspec.Struct, frozen=True):
    """What a version's JSON says: the price, and what the provider asks for the same."""

    price: Rates
    cost: Rates | None = None


@dataclass(frozen=True, slots=True)
class PricedModel:
    """One price in force: the rates, what the provider asks, and the version that both are kept under."""

    rates: Rates
    cost: Rates | None
    version: PriceVersion

    @property
    def free(self) -> bool:
        rates = self.rates
        return not (
            rates.input or rates.cached_input or rates.output or rates.reasoning or rates.image or rates.request
        )

    @classmethod
    def of(cls, model: str, price: settings.Price, *, bills_cached: bool = True) -> "PricedModel":
        cost = None if price.cost is None else Rates.of(price.cost, bills_cached=bills_cached)
        sheet = _Sheet(Rates.of(price, bills_cached=bills_cached), cost)
        text = msgspec.json.encode(sheet).decode()
        digest = sha256(f"{model}\n{price.since or ''}\n{text}".encode()).hexdigest()
        return cls(sheet.price, sheet.cost, PriceVersion(digest[:16], model, price.since, text))


def read_sheet(rates: str) -> tuple[Rates, Rates | None]:
    """Price and provider's cost from a version's JSON, as `prices.rates` keeps it."""
    sheet = msgspec.json.decode(rates, type=_Sheet)
    return sheet.price, sheet.cost


class PriceQuote(msgspec.Struct):
    """The prices of one request's targets, fixed at its admission. `images`: how many the request holds.

    An answer's cost is asked for by the answer itself, the settlement and the log: the last one is kept (`_costed`).
    """

    prices: Mapping[Target, PricedModel]
    images: int = 0
    _costed: tuple[Usage, Target, int] | None = None

    def of(self, target: Target | None) -> PricedModel:
        """The price of what `target` serves; the first target's if none did."""
        if target is not None and (found := self.prices.get(target)):
            return found
        return next(iter(self.prices.values()))

    def cost(self, usage: Usage, target: Target | None = None) -> int:
        """Nanocredits for `usage` at `target`; without one, at the dearest of all: what a hold goes by."""
        if target is not None:
            known = self._costed
            if known is not None and known[0] is usage and known[1] is target:
                return known[2]
            nano = self.of(target).rates.cost(usage, self.images)
            self._costed = (usage, target, nano)
            return nano
        return max(price.rates.cost(usage, self.images) for price in self.prices.values())

    def parts(self, usage: Usage, target: Target) -> Cost:
        """What `usage` costs at `target`, divided between the answer and all else."""
        return Cost(self.cost(usage, target), self.of(target).rates.output_part(usage))

    def most(self, input_tokens: int, output_tokens: int) -> int:
        """The most that so many tokens can cost at any target, whatever part of the output is reasoning."""
        return max([price.rates.most(input_tokens, output_tokens, self.images) for price in self.prices.values()])

    def provider_cost(self, usage: Usage, target: Target | None) -> int:
        """What the provider asks for `usage`, as far as the configuration says."""
        cost = self.of(target).cost
        return 0 if cost is None else cost.cost(usage, self.images)

    def affordable_output(self, nano: int, input_tokens: int) -> int | None:
        """How many tokens of output `nano` pays for at every target; None: any number."""
        caps = [price.rates.affordable_output(nano, input_tokens, self.images) for price in self.prices.values()]
        known = [cap for cap in caps if cap is not None]
        return min(known) if known else None

    @property
    def free(self) -> bool:
        return all(price.free for price in self.prices.values())


class PriceBook:
    """Every price of one configuration. Made once when it is loaded: a request only looks up."""

    def __init__(self, configuration: Settings) -> None:
        self._models = configuration.models
        self._upstreams = configuration.upstreams
        self._made: dict[tuple[Target, str], PricedModel] = {}
        self._dates = sorted(
            {change.since for model in self._models.values() for change in model.price_changes if change.since}
        )

    def quote(self, targets: Iterable[Target], at_s: float, images: int = 0) -> PriceQuote:
        """The prices in force at `at_s`, seconds since the epoch."""
        today = datetime.fromtimestamp(at_s, UTC).date().isoformat() if self._dates else ""
        return PriceQuote({target: self.price(target, today) for target in targets}, images)

    def price(self, target: Target, today: str) -> PricedModel:
        """The price of `target` on the date `today`, YYYY-MM-DD."""
        period = next((date for date in reversed(self._dates) if date <= today), "") if self._dates else ""
        found = self._made.get((target, period))
        if found is None:
            found = self._made[target, period] = PricedModel.of(
                target.public_model,
                self._in_force(target, period),
                bills_cached=self._upstreams[target.upstream].bills_cached_input,
            )
        return found

    def _in_force(self, target: Target, date: str) -> settings.Price:
        """The most particular price: the route's, then the variant's, then the model's as it is on `date`."""
        base, _, suffix = target.public_model.partition(":")
        model = self._models.get(target.public_model) or self._models[base]
        particular: settings.Price | Literal["free"] | None = _route_price(model, target)
        if particular is None and suffix:
            particular = model.variant_prices.get(suffix)
        if particular is None:
            particular = model.price
            for change in model.price_changes:
                if change.since is not None and change.since <= date:
                    particular = change
        return particular if isinstance(particular, settings.Price) else FREE


def _route_price(model: ModelSettings, target: Target) -> settings.Price | Literal["free"] | None:
    for route in model.routes:
        served = target.model == route.model or target.model.startswith(f"{route.model}/")
        if route.upstream == target.upstream and route.surface == target.surface and served:
            return route.price
    return None


assert {field.name for field in fields(settings.Rates)} - {"per"} <= set(Rates.__struct_fields__)

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from xrouter.config.settings import ModelSettings, Price, RouteSettings, Settings, UpstreamSettings
from xrouter.config.settings import Rates as RateSettings
from xrouter.context import Target
from xrouter.errors import UpstreamProtocolError
from xrouter.events import Usage
from xrouter.ledger.book import LARGEST_NANO
from xrouter.ledger.prices import PriceBook, PricedModel, PriceQuote, Rates, read_sheet

UP = Target("up", "m", "a/b")
credits_ = st.decimals(min_value=0, max_value=10**6, places=9)
tokens = st.integers(0, 10**7)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    optional = st.none() | credits_
    return Price(
        input=draw(credits_),
        output=draw(credits_),
        cached_input=draw(optional),
        reasoning=draw(optional),
        image=draw(optional),
        request=draw(credits_),
        per=draw(st.sampled_from([1, 1000, 1_000_000])),
    )


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    return Usage(draw(tokens), draw(tokens), draw(st.none() | tokens), draw(st.none() | tokens))


def exactly(price: Price, usage: Usage, images: int) -> Fraction:
    """The cost as a person would compute it, in nanocredits."""
    cached = min(usage.cached_tokens or 0, usage.input_tokens)
    reasoning = min(usage.reasoning_tokens or 0, usage.output_tokens)
    per_token = [
        (price.input, usage.input_tokens - cached),
        (price.input if price.cached_input is None else price.cached_input, cached),
        (price.output, usage.output_tokens - reasoning),
        (price.output if price.reasoning is None else price.reasoning, reasoning),
    ]
    total = sum((Fraction(rate) * count / price.per for rate, count in per_token), Fraction(0))
    return (total + Fraction(price.image or 0) * images + Fraction(price.request)) * 10**9


@given(prices(), usages(), st.integers(0, 100))
def test_a_cost_is_exact_and_rounded_up_once(price: Price, usage: Usage, images: int) -> None:
    exact = exactly(price, usage, images)
    try:
        cost = Rates.of(price).cost(usage, images)
    except UpstreamProtocolError:
        assert exact > LARGEST_NANO - 1
        return
    assert exact <= cost < exact + 1
    assert 0 <= cost <= LARGEST_NANO


@given(prices(), usages())
def test_the_parts_that_a_client_is_told_are_the_whole_and_none_is_negative(price: Price, usage: Usage) -> None:
    rates = Rates.of(price)
    try:
        cost = rates.cost(usage)
    except UpstreamProtocolError:
        return
    output = (
        exactly(price, structs.replace(usage, input_tokens=0, cached_tokens=0), 0) - Fraction(price.request) * 10**9
    )
    assert output <= rates.output_part(usage) < output + 1
    assert 0 <= rates.output_part(usage) <= cost


@given(prices(), usages(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_tokens_never_cost_less(price: Price, usage: Usage, more_in: int, more_out: int) -> None:
    rates = Rates.of(
        replace(price, input=min(price.input, Decimal(1000)), output=min(price.output, Decimal(1000)), per=1000)
    )
    plain = Usage(usage.input_tokens, usage.output_tokens)
    more = Usage(plain.input_tokens + more_in, plain.output_tokens + more_out)
    assert rates.cost(more) >= rates.cost(plain)


@given(prices(), st.integers(0, 10**15), st.integers(0, 10**5))
def test_what_is_affordable_can_be_paid_and_one_token_more_cannot(price: Price, nano: int, input_tokens: int) -> None:
    priced = PricedModel.of("a/b", price)
    quote = PriceQuote({UP: priced})
    cap = quote.affordable_output(nano, input_tokens)
    if cap is None:
        assert priced.rates.output == priced.rates.reasoning == 0
    elif cap < 2**40 - 1:
        assert cap == 0 or quote.most(input_tokens, cap) <= nano
        assert quote.most(input_tokens, cap + 1) > nano


@pytest.mark.parametrize(
    "usage",
    [
        Usage(-1, 0),
        Usage(0, -1),
        Usage(1, 1, cached_tokens=-5),
        Usage(1, 1, reasoning_tokens=-5),
        Usage(18446744073686646784, 0),
        Usage(1, 2**63),
    ],
)
def test_f34_counts_that_cannot_be_right_are_no_charge(usage: Usage) -> None:
    """Incident I-11: a count that wrapped became a negative charge. Fails without the bounds in `Rates.cost`."""
    with pytest.raises(UpstreamProtocolError):
        Rates.of(Price(input=Decimal(1), output=Decimal(1))).cost(usage)


def test_f34_a_price_beyond_the_cap_aborts() -> None:
    with pytest.raises(UpstreamProtocolError):
        Rates.of(Price(input=Decimal(10**9), per=1)).cost(Usage(10**3, 0))


def test_what_may_cost_more_than_the_largest_amount_is_held_at_that() -> None:
    """Nobody can afford it, which is a 402. It was told as an upstream's wrong count before any upstream was asked."""
    assert Rates.of(Price(input=Decimal(10**9), per=1)).most(10**3, 0) == LARGEST_NANO


def test_the_sheets_examples_come_out_to_the_last_digit() -> None:
    giga = Rates.of(Price(input=Decimal("0.65"), output=Decimal("0.65"), cached_input=Decimal(0)))
    assert giga.cost(Usage(38, 4, cached_tokens=37)) == 5 * 650_000  # gigachat.md test 11: billed 5 of 42 tokens
    tiny = Rates.of(Price(input=Decimal("0.000000001"), per=1_000_000))
    assert tiny.cost(Usage(1, 0)) == 1  # a millionth of a nanocredit is rounded up
    assert tiny.cost(Usage(0, 0)) == 0


def book(**model: Any) -> PriceBook:
    settings = ModelSettings(**{"routes": (RouteSettings(upstream="up", model="m"),), **model})
    upstreams = {name: UpstreamSettings(provider="openai", base_url="http://127.0.0.1:1") for name in ("up", "other")}
    return PriceBook(Settings(upstreams=upstreams, models={"a/b": settings}, filters=()))


def at(date: str) -> float:
    return datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()


def input_price(prices: PriceBook, date: str, target: Target = UP) -> int:
    return prices.quote([target], at(date)).of(target).rates.cost(Usage(1000, 0))


def test_a_price_changes_at_midnight_of_its_day_and_a_quote_keeps_the_old_one() -> None:
    prices = book(
        price=Price(input=Decimal(1)),
        price_changes=(Price(input=Decimal(2), since="2026-02-01"), Price(input=Decimal(3), since="2026-03-01")),
    )
    before = prices.quote([UP], at("2026-01-31T23:59:59"))
    for date, cost in (
        ("2026-01-31T23:59:59", 1),
        ("2026-02-01T00:00:00", 2),
        ("2026-02-28T00:00", 2),
        ("2026-03-01T00:00", 3),
    ):
        assert input_price(prices, date) == cost * 10**9
    assert before.cost(Usage(1000, 0)) == 10**9


def test_the_most_particular_price_holds() -> None:
    variant, route = Target("up", "m/rc", "a/b:rc"), Target("other", "m", "a/b")
    prices = book(
        routes=(
            RouteSettings(upstream="up", model="m"),
            RouteSettings(upstream="other", model="m", price=Price(input=Decimal(5))),
        ),
        variants={"rc": "rc", "latest": "latest"},
        variant_prices={"rc": "free"},
        price=Price(input=Decimal(1)),
    )
    assert input_price(prices, "2026-01-01", UP) == 10**9
    assert input_price(prices, "2026-01-01", variant) == 0
    assert input_price(prices, "2026-01-01", Target("up", "m/latest", "a/b:latest")) == 10**9
    assert input_price(prices, "2026-01-01", route) == 5 * 10**9
    quote = prices.quote([UP, route], at("2026-01-01"))
    assert quote.cost(Usage(1000, 0)) == 5 * 10**9  # the dearest, for the hold
    assert quote.cost(Usage(1000, 0), UP) == 10**9  # the one that served, for the charge
    assert not quote.free
    assert prices.quote([variant], at("2026-01-01")).free


def test_a_version_names_exactly_what_it_says() -> None:
    price = Price(input=Decimal("0.65"), output=Decimal(1), cost=RateSettings(input=Decimal("0.5")))
    version = PricedModel.of("a/b", price).version
    assert version == PricedModel.of("a/b", replace(price, input=Decimal("0.650"))).version
    others = [
        PricedModel.of("a/c", price),
        PricedModel.of("a/b", replace(price, input=Decimal("0.66"))),
        PricedModel.of("a/b", replace(price, cost=None)),
        PricedModel.of("a/b", replace(price, since="2026-01-01")),
    ]
    assert version.version not in {other.version.version for other in others}
    rates, cost = read_sheet(version.rates)
    assert rates == Rates.of(price)
    assert cost == Rates.of(RateSettings(input=Decimal("0.5")))

import re
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import limits as limits_package
import pytest

from xrouter.catalog import Catalog
from xrouter.config.load import ConfigError, load
from xrouter.config.settings import ModelSettings, Price, RouteSettings, Settings, Tier
from xrouter.filters.rate_limit import RateLimit
from xrouter.limits.credits import dearest, from_nano
from xrouter.limits.limit import parse_rate
from xrouter.limits.rules import LimitSettings, Rules

DOCS = Path(__file__).parents[2] / "docs" / "limits.md"


@pytest.mark.parametrize(
    "text",
    [
        "20/minute",
        "1000/day",
        "5 per 10 second",
        "5/10 seconds",
        "1 per hour",
        "3/2 months",
        " 7 / minute ",
        "9/SECOND",
    ],
)
def test_rates_mean_what_they_mean_to_the_limits_package(text: str) -> None:
    theirs = limits_package.parse(text.strip())
    ours = parse_rate(text)
    assert (ours.amount, ours.window_s) == (theirs.amount, theirs.get_expiry())


@pytest.mark.parametrize(
    "text", ["", "20", "/minute", "0/minute", "5/0 minutes", "-1/day", "20/fortnight", "1/13 months"]
)
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="limit"):
        parse_rate(text)


def test_names_tell_what_a_limit_is() -> None:
    many = LimitSettings(per="key", requests="5 per 10 seconds", tokens="9/day", concurrency=3)
    assert [limit.name for limit in many.limits()] == [
        "key.requests.5/10-seconds",
        "key.tokens.9/day",
        "key.concurrency.3",
    ]
    assert [limit.name for limit in LimitSettings(per="ip", requests="9/day", name="x").limits()] == ["x"]
    named = LimitSettings(per="ip", requests="9/day", credits="9/day", name="x")
    assert [limit.name for limit in named.limits()] == ["x.requests", "x.credits"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "how much"),
        ({"requests": "20/fortnight"}, "a limit is written"),
        ({"concurrency": 0}, "at least 1"),
        ({"requests": "9/day", "burst": 5}, "only `strategy: token_bucket`"),
        ({"requests": "9/day", "burst": 0, "strategy": "token_bucket"}, "at least 1"),
        ({"requests": "9/day", "name": "two words"}, "name"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(fields: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        LimitSettings(per="key", **fields)


def test_two_limits_of_one_name_would_count_in_one_place() -> None:
    twice = (LimitSettings(per="key", requests="9/day"), LimitSettings(per="key", requests="9/day", models=("a/*",)))
    with pytest.raises(ValueError, match="two limits are called key"):
        RateLimit.Config(limits=twice)
    for_each = tuple(LimitSettings(per="key", requests="9/day", tiers=(tier,)) for tier in ("t", "u"))
    Rules({"t": Tier(), "u": Tier()}, for_each)


def test_what_is_known_when_a_request_comes_is_taken_then() -> None:
    tier = Tier(requests=("9/minute",), tokens=("9/minute",), concurrency=2)
    more = (LimitSettings(per="model", requests="9/day"), LimitSettings(per="key", requests="8/day", models=("a/*",)))
    rules = Rules({"t": tier}, more).of("t")
    assert [limit.name for limit in rules.early] == ["t.requests.9/minute", "t.concurrency"]
    assert [limit.name for limit in rules.exhausted] == ["t.tokens.9/minute"]
    assert [limit.name for limit in rules.late] == ["t.tokens.9/minute", "model.requests.9/day", "key.requests.8/day"]


def test_credits_are_those_of_the_dearest_model() -> None:
    def model(**price: str) -> ModelSettings:
        amounts = {name: Decimal(value) for name, value in price.items()}
        return ModelSettings(routes=(RouteSettings(upstream="u", model="m"),), price=Price(**amounts))  # type: ignore[arg-type]

    free = ModelSettings(routes=(RouteSettings(upstream="u", model="m"),), price="free")
    models = {"a/b": model(input="0.65", output="0.65"), "a/c": model(input="0.1", request="0.5"), "a/free": free}
    catalog = Catalog(Settings(upstreams={}, models=models, filters=()))
    assert dearest(catalog, ("a/b",), 1000, 1000) == 1_300_000
    assert dearest(catalog, ("a/b",), 1, 0) == 650
    assert dearest(catalog, ("a/b", "a/c"), 10, 0) == 501_000
    assert dearest(catalog, ("a/free", "unknown"), 1000, 1000) == 0
    assert from_nano(1001) == 2


def test_the_page_s_configuration_loads(tmp_path: Path) -> None:
    """And its tables name every kind, subject and strategy."""
    text = DOCS.read_text(encoding="utf-8")
    shown = text.split("```yaml\n")[1].split("```")[0]
    whole = tmp_path / "x.yaml"
    whole.write_text(
        "upstreams: {u: {provider: openai, base_url: 'http://h/v1'}}\n"
        "models: {a/b: {price: free, routes: [{upstream: u, model: m}]}}\n"
        + shown
        + "  - body\n  - routing\n  - token_count\n"
    )
    settings = load(whole, {})
    (config,) = [entry.config for entry in settings.filters if entry.name == "rate_limit"]
    Rules(settings.tiers, config.limits)
    for word in (
        "requests",
        "input_tokens",
        "credits",
        "concurrency",
        "upstream",
        "user",
        "local_share",
        "token_bucket",
    ):
        assert f"`{word}`" in text


def test_the_reference_has_every_key_of_a_limit() -> None:
    text = DOCS.with_name("configuration.md").read_text(encoding="utf-8")
    table = text.split("#### `filters`: `rate_limit`: `limits`")[1].split("####")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [field.name for field in fields(LimitSettings)]


def test_a_fault_in_a_limit_is_told_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "upstreams: {}\nmodels: {}\nfilters:\n"
        "  - rate_limit:\n      limits:\n"
        "        - {per: key, requests: 20/fortnight}\n        - {per: planet, requests: 1/day}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    told = "\n".join(map(str, caught.value.problems))
    assert "6:11: a limit is written" in told
    assert "'planet'" in told

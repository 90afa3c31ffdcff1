"""Which places a request gets and in which order, and what is said of the others."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from choosing import Choosing, upstreams

from xrouter.errors import BadRequest, Forbidden, ModelNotFound, NotFound

ABC = upstreams("a", "b", "c")
MANY = 2000


@pytest.fixture
def choosing(tmp_path: Path) -> Any:
    """A configuration of the upstreams a, b and c whose model m/x has `routes` and further keys."""

    def make(routes: str, keys: str = "", more: str = "", **how: Any) -> Choosing:
        text = f"{ABC}models:\n  m/x: {{price: free, {keys}routes: [{routes}]}}\n{more}"
        return Choosing(text, tmp_path, **how)

    return make


THREE = "{upstream: a, model: m}, {upstream: b, model: m}, {upstream: c, model: m}"
WEIGHTED = "{upstream: a, model: m, weight: 7}, {upstream: b, model: m, weight: 3}, {upstream: c, model: m, weight: 0}"


def firsts(choosing: Choosing, sessions: bool = False, **asked: Any) -> dict[str, float]:
    found = Counter(
        choosing.upstreams("m/x", session=f"k:{number}" if sessions else None, **asked)[0] for number in range(MANY)
    )
    return {name: count / MANY for name, count in sorted(found.items())}


# Balance


def test_without_weights_the_order_is_as_written(choosing: Any) -> None:
    made = choosing(THREE)
    assert firsts(made) == {"a": 1.0}
    assert made.upstreams("m/x", session="k:1") == ["a", "b", "c"]


@pytest.mark.parametrize("sessions", [False, True])
def test_weights_are_shares_and_none_is_a_last_resort(choosing: Any, sessions: bool) -> None:
    made = choosing(WEIGHTED)
    assert firsts(made, sessions) == pytest.approx({"a": 0.7, "b": 0.3}, abs=0.04)
    assert all(made.upstreams("m/x", session=f"k:{number}")[-1] == "c" for number in range(50))


def test_a_route_without_weight_beside_one_that_has_some_weighs_one(choosing: Any) -> None:
    made = choosing("{upstream: a, model: m, weight: 3}, {upstream: b, model: m}")
    assert firsts(made) == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.04)


def test_weights_say_nothing_where_the_order_is_wanted(choosing: Any) -> None:
    assert firsts(choosing(WEIGHTED, "balance: order, ")) == {"a": 1.0}


def test_least_busy(choosing: Any) -> None:
    made = choosing(THREE, "balance: least_busy, ")
    assert firsts(made) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, abs=0.04), "equals take turns"
    for place in [("a", "m"), ("a", "m"), ("b", "m")]:
        made.health.begin(place)
    assert made.upstreams("m/x") == ["c", "b", "a"]


def test_least_busy_for_its_weight(choosing: Any) -> None:
    made = choosing(WEIGHTED, "balance: least_busy, ")
    for place in [("a", "m"), ("a", "m"), ("b", "m")]:
        made.health.begin(place)
    assert made.upstreams("m/x") == ["a", "b", "c"], "2 calls of 7 are less than 1 of 3; without weight is last"


def test_latency_prefers_the_faster_and_never_floods_it(choosing: Any) -> None:
    made = choosing(THREE, "balance: latency, ")
    for name, first_token_s in (("a", 0.1), ("b", 0.2), ("c", 0.9)):
        made.served((name, "m"), first_token_s=first_token_s)
    # Of two by chance the faster: a unless it is not among them, c never.
    assert firsts(made) == pytest.approx({"a": 2 / 3, "b": 1 / 3}, abs=0.04)
    for _ in range(9):
        made.health.begin(("a", "m"))
    assert firsts(made) == pytest.approx({"b": 2 / 3, "c": 1 / 3}, abs=0.04), "0.1 s for each of ten calls is 1 s"


def test_latency_tries_what_it_does_not_know_one_call_at_a_time(choosing: Any) -> None:
    made = choosing("{upstream: a, model: m}, {upstream: b, model: m}", "balance: latency, ")
    made.served(("a", "m"))
    assert firsts(made) == {"b": 1.0}
    made.health.begin(("b", "m"))
    assert firsts(made) == {"a": 1.0}


def test_cheapest(tmp_path: Path) -> None:
    routes = (
        '{upstream: a, model: m, price: {input: "2", output: "1"}}, '
        '{upstream: b, model: m, price: {input: "0.5", output: "0.5", per: 1000000}}, '
        "{upstream: c, model: m, price: free, weight: 0}"
    )
    made = Choosing(f"{ABC}models:\n  m/x: {{price: free, balance: cheapest, routes: [{routes}]}}\n", tmp_path)
    assert made.upstreams("m/x") == ["b", "a", "c"]


# Conversations


@pytest.mark.parametrize("balance", ["weighted", "least_busy", "latency"])
def test_a_conversation_stays_where_it_is(choosing: Any, balance: str) -> None:
    made = choosing(WEIGHTED, f"balance: {balance}, ")
    before = made.upstreams("m/x", session="k:dialogue")
    for _ in range(5):
        made.health.begin((before[0], "m"))
    made.served(("c", "m"), first_token_s=0.001)
    assert all(made.upstreams("m/x", session="k:dialogue") == before for _ in range(20))


def test_a_conversation_leaves_a_place_in_trouble_and_comes_back(choosing: Any) -> None:
    made = choosing(WEIGHTED)
    before = made.upstreams("m/x", session="k:dialogue")
    made.ejected((before[0], "m"))
    assert made.upstreams("m/x", session="k:dialogue") == [before[1], "c", before[0]]
    made.health.restore((before[0], "m"))
    assert made.upstreams("m/x", session="k:dialogue") == before


def test_conversations_that_need_not_stay(choosing: Any) -> None:
    made = choosing(WEIGHTED, "sticky: false, ")
    found = Counter(made.upstreams("m/x", session="k:dialogue")[0] for _ in range(MANY))
    assert found["a"] / MANY == pytest.approx(0.7, abs=0.04)


# Canaries and shadows

CANARY = "{upstream: a, model: m}, {upstream: b, model: m, canary: 20}, {upstream: c, model: m}"


@pytest.mark.parametrize("sessions", [False, True])
def test_a_canary_is_first_for_its_percent_and_last_for_the_others(choosing: Any, sessions: bool) -> None:
    made = choosing(CANARY)
    assert firsts(made, sessions) == pytest.approx({"a": 0.8, "b": 0.2}, abs=0.03)
    orders = {tuple(made.upstreams("m/x", session=f"k:{number}")) for number in range(100)}
    assert orders == {("b", "a", "c"), ("a", "c", "b")}


def test_a_conversation_stays_with_its_canary(choosing: Any) -> None:
    made = choosing(CANARY)
    assert all(len({made.upstreams("m/x", session=f"k:{n}")[0] for _ in range(5)}) == 1 for n in range(50))


def test_two_canaries_have_their_own_percents(choosing: Any) -> None:
    routes = "{upstream: a, model: m}, {upstream: b, model: m, canary: 20}, {upstream: c, model: m, canary: 30}"
    assert firsts(choosing(routes)) == pytest.approx({"a": 0.5, "b": 0.2, "c": 0.3}, abs=0.04)


def test_a_request_may_name_a_canary_and_sort_past_none(choosing: Any) -> None:
    made = choosing(CANARY.replace("20", "0.0001"))
    assert made.upstreams("m/x", provider={"order": ["b"]}) == ["b", "a", "c"]
    assert made.upstreams("m/x", provider={"sort": "price"}) == ["a", "c", "b"]


def test_shadows_get_copies_and_serve_nobody(choosing: Any) -> None:
    made = choosing("{upstream: a, model: m}, {upstream: b, model: m, shadow: 25}")
    asked = [made.ask("m/x", session=f"k:{number}") for number in range(MANY)]
    assert all([target.upstream for target in one.ordered] == ["a"] for one in asked)
    copied = [target.upstream for one in asked for target in one.shadows]
    assert set(copied) == {"b"}
    assert len(copied) / MANY == pytest.approx(0.25, abs=0.03)


def test_what_a_request_forbids_it_forbids_shadows_too(choosing: Any) -> None:
    made = choosing("{upstream: a, model: m}, {upstream: b, model: m, shadow: 100}")
    assert [target.upstream for target in made.ask("m/x").shadows] == ["b"]
    for provider in ({"ignore": ["b"]}, {"only": ["a"]}):
        assert made.ask("m/x", provider=provider).shadows == ()
    assert made.ask("m/x", provider={"data_collection": "deny"}).shadows == ()


# Health


def test_those_in_trouble_come_last_but_stay(choosing: Any) -> None:
    made = choosing(THREE, more="  m/y: {price: free, routes: [{upstream: b, model: n}]}\n")
    made.ejected(("a", "m"))
    found = made.ask("m/x", models=["m/y"])
    assert [target.upstream for target in found.ordered] == ["b", "c", "b", "a"], "another model before a broken place"
    assert found.left_alone == {("a", "m")}
    made.ejected(("b", "m"), ("c", "m"), ("b", "n"))
    assert len(made.upstreams("m/x")) == 3


def test_panic_ignores_ejections(choosing: Any) -> None:
    made = choosing(THREE)
    made.ejected(("a", "m"), ("b", "m"))
    assert made.upstreams("m/x") == ["a", "b", "c"], "two of three: the fault is likely elsewhere"


# Names


def test_floor_and_nitro_sort(choosing: Any) -> None:
    made = choosing(
        '{upstream: a, model: m, price: {input: "2"}}, {upstream: b, model: m, price: {input: "1"}}, '
        '{upstream: c, model: m, price: {input: "3"}}',
        "aliases: [x], variants: {rc: rc}, ",
    )
    for name, tokens in (("a", 10), ("b", 20), ("c", 30)):
        made.served((name, "m"), tokens=tokens)
    assert made.upstreams("m/x:floor") == made.upstreams("x:floor") == ["b", "a", "c"]
    assert made.upstreams("m/x:nitro") == ["c", "b", "a"]
    assert made.upstreams("m/x:nitro", provider={"sort": "price"}) == ["c", "b", "a"], "the name says it of this model"
    assert made.upstreams("m/x:nitro", provider={"order": ["a"]}) == ["a", "c", "b"]
    assert [target.model for target in made.ask("m/x:rc:floor").ordered] == ["m/rc"] * 3


@pytest.mark.parametrize("name", ["m/x:free", "m/x:rc", "m/x:thinking", "m/x:FLOOR"])
def test_a_variant_that_is_not_there_is_named(choosing: Any, name: str) -> None:
    made = choosing(THREE)
    refusal = made.ask(name).refusal()
    assert isinstance(refusal, ModelNotFound)
    assert refusal.message == f"There is no model {name!r}: m/x has no variant {name[4:]!r}"
    hidden = made.ask(name, scope={"other/x"}).refusal()
    assert hidden.message == f"There is no model {name!r}", "which variants a model has is not every key's business"


def test_free_variants(choosing: Any) -> None:
    made = choosing(
        THREE,
        "variants: {free: latest}, variant_prices: {free: free}, ",
        more='  m/y: {price: {input: "1"}, routes: [{upstream: a, model: y}]}\n'
        "  'm/y:free': {price: free, routes: [{upstream: b, model: y-small}]}\n"
        "  'm/y:floor': {price: free, routes: [{upstream: c, model: y}]}\n",
    )
    assert [target.model for target in made.ask("m/x:free").ordered] == ["m/latest"] * 3
    assert made.upstreams("m/y:free") == ["b"]
    assert made.upstreams("m/y:floor") == ["c"], "a configured name is that model"


# Policy


@pytest.mark.parametrize(
    ("tier", "served"),
    [(None, ["a", "b", "c"]), ("narrow", ["b"]), ("gone", ["a", "b", "c"]), ("authors", ["a", "b", "c"])],
)
def test_upstreams_of_a_tier(choosing: Any, tier: str | None, served: list[str]) -> None:
    made = choosing(THREE, more="tiers: {narrow: {upstreams: [b]}, authors: {models: [m/*]}}\n")
    assert made.upstreams("m/x", tier=tier) == served
    assert made.left_out("m/x", tier=tier) == (
        {"a": "tier.upstreams", "c": "tier.upstreams"} if len(served) == 1 else {}
    )


def test_models_of_a_tier(choosing: Any) -> None:
    more = "  n/y: {price: free, routes: [{upstream: a, model: n}]}\n"
    made = choosing(THREE, more=more + "tiers: {default: {models: [n/y]}, few: {upstreams: [c]}}\n")
    assert isinstance(made.ask("m/x").refusal(), Forbidden), "a key without a tier has the default one"
    assert made.upstreams("n/y") == ["a"]
    assert isinstance(made.ask("n/y", tier="few").refusal(), Forbidden), "no upstream of this tier serves it"
    assert isinstance(made.ask("n/y", scope={"m/x"}).refusal(), Forbidden)
    assert isinstance(made.ask("m/x", scope={"m/x"}).refusal(), Forbidden), "a key's list widens no tier"


# Preferences

DATA = upstreams("a", "b", "c", b=", data_collection: deny", c=", data_collection: deny, zdr: true")
YANDEX = '  y: {provider: yandexgpt, base_url: "http://127.0.0.1:9", folder: f, api_key: k, data_logging: true%s}\n'
FOUR = THREE + ", {upstream: y, model: yandexgpt}"


@pytest.mark.parametrize(
    ("provider", "yandex", "served"),
    [
        ({}, "", ["a", "b", "c", "y"]),
        ({"data_collection": "allow", "zdr": False}, "", ["a", "b", "c", "y"]),
        ({"data_collection": "deny"}, "", ["b", "c", "y"]),
        ({"data_collection": "deny"}, ", data_collection: allow", ["b", "c"]),
        ({"zdr": True}, "", ["c"]),
    ],
)
def test_who_keeps_data(tmp_path: Path, provider: Any, yandex: str, served: list[str]) -> None:
    made = Choosing(f"{DATA}{YANDEX % yandex}models:\n  m/x: {{price: free, routes: [{FOUR}]}}\n", tmp_path)
    assert made.upstreams("m/x", provider=provider) == served


@pytest.mark.parametrize(
    ("preferences", "first"),
    [
        ({"preferred_max_latency": 0.3}, "b"),
        ({"preferred_max_latency": {"p99": 0.3}}, "b"),
        ({"preferred_max_latency": {"p50": 9.0}}, "a"),
        ({"preferred_min_throughput": 25}, "c"),
        ({"preferred_min_throughput": {"p50": 1}, "preferred_max_latency": 9}, "a"),
        ({"preferred_min_throughput": 1000}, "a"),
    ],
)
def test_thresholds_leave_nobody_out(choosing: Any, preferences: Any, first: str) -> None:
    made = choosing(THREE)
    for name, first_token_s, tokens in (("a", 1.0, 10), ("b", 0.1, 20), ("c", 1.0, 40)):
        made.served((name, "m"), first_token_s=first_token_s, tokens=tokens, times=20)
    found = made.upstreams("m/x", provider=preferences)
    assert found[0] == first
    assert sorted(found) == ["a", "b", "c"]


def test_sort_by_what_is_known(choosing: Any) -> None:
    made = choosing(THREE)
    made.served(("b", "m"), first_token_s=0.5, tokens=10)
    made.served(("c", "m"), first_token_s=0.1, tokens=5)
    assert made.upstreams("m/x", provider={"sort": "latency"}) == ["c", "b", "a"]
    assert made.upstreams("m/x", provider={"sort": "throughput"}) == ["b", "c", "a"]
    assert made.upstreams("m/x", provider={"sort": {"by": None}}) == ["a", "b", "c"]


def test_sorting_the_models_together(choosing: Any) -> None:
    made = choosing(
        '{upstream: a, model: m, price: {input: "3"}}, {upstream: b, model: m, price: {input: "1"}}',
        more='  m/y: {price: {input: "2"}, routes: [{upstream: c, model: n}]}\n',
    )
    asked = {"models": ["m/y"]}
    assert made.upstreams("m/x", provider={"sort": "price"}, **asked) == ["b", "a", "c"]
    assert made.upstreams("m/x", provider={"sort": {"by": "price"}}, **asked) == ["b", "a", "c"]
    together = {"sort": {"by": "price", "partition": "none"}}
    assert made.upstreams("m/x", provider=together, **asked) == ["b", "c", "a"]
    assert made.upstreams("m/x", provider={**together, "order": ["a"]}, **asked) == ["a", "b", "c"]


def test_nobody_stands_in(choosing: Any) -> None:
    more = "  m/y: {price: free, routes: [{upstream: c, model: n}, {upstream: a, model: n}]}\n"
    made = choosing(THREE, more=more)
    alone = {"allow_fallbacks": False}
    assert made.upstreams("m/x", provider=alone) == ["a"]
    assert made.left_out("m/x", provider=alone) == dict.fromkeys("bc", "provider.allow_fallbacks")
    assert made.upstreams("m/x", provider={**alone, "order": ["c", "b"]}) == ["c", "b"]
    assert made.upstreams("m/x", models=["m/y"], provider=alone) == ["a", "c"], "another model is no stand-in"
    assert isinstance(made.ask("m/x", provider={**alone, "order": ["nobody"]}).refusal(), NotFound)
    assert choosing(THREE, fallback=False).upstreams("m/x") == ["a"]


def test_each_that_is_left_out_has_its_reason(choosing: Any) -> None:
    made = choosing(
        '{upstream: a, model: m}, {upstream: b, model: m}, {upstream: c, model: m, price: {input: "9", per: 1000000}}'
    )
    found = made.ask("m/x", provider={"ignore": ["a"], "max_price": {"prompt": 1}})
    assert {target.upstream: reason.value for target, reason in found.left_out} == {
        "a": "provider.ignore", "c": "provider.max_price",
    }  # fmt: skip
    refusal = made.ask("m/x", provider={"ignore": ["a", "b"], "max_price": {"prompt": 1}}).refusal()
    assert refusal.message == (
        "No upstream fits the request. Upstreams left out by provider.ignore (2), provider.max_price (1)"
    )


def test_one_name_of_several_that_cannot_serve_is_passed_over(choosing: Any) -> None:
    made = choosing(THREE, more="  m/e: {kind: embedding, price: free, routes: [{upstream: a, model: e}]}\n")
    found = made.ask("no/such", models=["m/e", "m/x", "m/x"])
    assert [target.public_model for target in found.ordered] == ["m/x"] * 3
    assert [type(refusal) for refusal in found.refusals] == [ModelNotFound, BadRequest]
    assert isinstance(made.ask("no/such", models=["m/e"]).refusal(), ModelNotFound)

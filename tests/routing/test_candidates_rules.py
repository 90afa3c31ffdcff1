"""For any configuration, request and state of health the candidates keep the rules of docs/routing.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.seeded import SeededWorld

from xrouter.catalog import Catalog
from xrouter.config.settings import ModelSettings, Price, RouteSettings, Settings, UpstreamSettings
from xrouter.context import Principal, Target
from xrouter.providers.openai import OpenAI
from xrouter.providers.upstreams import Upstream, build_upstreams
from xrouter.routing.candidates import Asking, Candidates, Chooser
from xrouter.routing.health import Health
from xrouter.surfaces.openai import read_call
from xrouter.wire import encode_json

NAMES = ("u0", "u1", "u2", "u3", "u4")
PRICES = (Decimal(1), Decimal(2), Decimal(3))
CONFIGS: dict[str, UpstreamSettings] = {
    name: OpenAI.Config(
        provider="openai",
        base_url="http://127.0.0.1:1/v1",
        data_collection="deny" if name in ("u1", "u3") else None,
        zdr=name == "u3",
    )
    for name in NAMES
}


@pytest.fixture(scope="module")
def upstreams() -> dict[str, Upstream]:
    return build_upstreams(CONFIGS, SeededWorld())


@dataclass(frozen=True)
class Case:
    models: dict[str, ModelSettings]
    provider: dict[str, Any]
    asked: list[str]
    session: str | None
    ejected: list[int]  # places by their number in the catalogue
    known: list[tuple[int, float]]  # places with their time to a first token
    seed: int

    @property
    def routes(self) -> dict[tuple[str, str], RouteSettings]:
        return {(model_id, route.model): route for model_id, model in self.models.items() for route in model.routes}

    def route(self, target: Target) -> RouteSettings:
        return self.routes[target.public_model, target.model]


@st.composite
def models(draw: st.DrawFn, number: int, *, sticky: bool) -> ModelSettings:
    routes = []
    percent = 0
    for place in range(draw(st.integers(1, 5))):
        part = draw(st.sampled_from(["", "", "", "canary", "shadow"])) if place else ""
        canary = draw(st.integers(1, 100 - percent)) if part == "canary" and percent < 100 else 0
        percent += canary
        routes.append(
            RouteSettings(
                upstream=draw(st.sampled_from(NAMES)),
                model=f"m{number}-{place}",
                weight=draw(st.sampled_from([None, 0, 1, 2, 5])),
                canary=canary,
                shadow=draw(st.sampled_from([1.0, 50.0, 100.0])) if part == "shadow" else 0.0,
                price=Price(input=draw(st.sampled_from(PRICES))),
            )
        )
    return ModelSettings(
        routes=tuple(routes),
        balance=draw(st.sampled_from([None, "weighted", "least_busy", "latency", "cheapest", "order"])),
        sticky=sticky or draw(st.booleans()),
        price="free",
    )


SESSIONS = st.text(max_size=5).map("k:{}".format)
LISTS = st.lists(st.sampled_from([*NAMES, "openai", "nobody"]), max_size=3)
PROVIDERS = st.fixed_dictionaries(
    {},
    optional={
        "order": LISTS,
        "only": LISTS,
        "ignore": st.lists(st.sampled_from([*NAMES, "nobody"]), max_size=2),
        "allow_fallbacks": st.booleans(),
        "sort": st.sampled_from(["price", "latency", {"by": "price", "partition": "none"}, {"by": "throughput"}]),
        "max_price": st.sampled_from([{"prompt": 2000}, {"prompt": 1000}, {}]),
        "data_collection": st.sampled_from(["allow", "deny"]),
        "zdr": st.booleans(),
        "preferred_max_latency": st.sampled_from([0.5, {"p90": 1.0}]),
    },
)


@st.composite
def cases(draw: st.DrawFn, *, conversation: bool = False) -> Case:
    made = {f"m/{number}": draw(models(number, sticky=conversation)) for number in range(draw(st.integers(1, 3)))}
    places = range(sum(len(model.routes) for model in made.values()))
    return Case(
        models=made,
        provider=draw(PROVIDERS),
        asked=draw(st.permutations(list(made))),
        session=draw(SESSIONS if conversation else st.none() | SESSIONS),
        ejected=draw(st.lists(st.sampled_from(places), unique=True)),
        known=draw(st.lists(st.tuples(st.sampled_from(places), st.sampled_from([0.1, 0.7, 3.0])), max_size=8)),
        seed=draw(st.integers(0, 2**16)),
    )


def ask(case: Case, upstreams: dict[str, Upstream], *, again: int = 1, **changes: Any) -> list[Candidates]:
    """The candidates of one request after another."""
    configuration = Settings(upstreams=CONFIGS, models=case.models, filters=())
    world = SeededWorld(case.seed)
    catalog, health = Catalog(configuration), Health(world)
    places = sorted(catalog.places())
    for number, first_token_s in case.known:
        health.begin(places[number])
        health.succeeded(places[number], first_token_s=first_token_s, duration_s=4.0, output_tokens=20)
    for number in case.ejected:
        health.eject(places[number], "probe", "status", 60.0)
    provider = {**case.provider, **changes}
    body = {"models": case.asked, "messages": [{"role": "user", "content": "x"}], "provider": provider}
    asking = Asking(read_call("chat", encode_json(body)), Principal("k", "acme"), case.session, world.now())
    chooser = Chooser(configuration, catalog, upstreams, health, world)
    return [chooser.candidates(asking) for _ in range(again)]


def fits(target: Target, case: Case) -> bool:
    """The preferences once more, as a client would read them in OpenRouter's documentation."""
    names, wanted = {target.upstream, "openai"}, case.provider
    settings = CONFIGS[target.upstream]
    price = case.route(target).price
    assert isinstance(price, Price)
    most = wanted.get("max_price", {}).get("prompt")
    return (
        ("only" not in wanted or not names.isdisjoint(wanted["only"]))
        and names.isdisjoint(wanted.get("ignore", ()))
        and (wanted.get("data_collection") != "deny" or settings.data_collection == "deny")
        and (not wanted.get("zdr") or settings.zdr)
        and (most is None or price.input * 1000 <= most)
    )


def ascending(values: Sequence[Any]) -> bool:
    return list(values) == sorted(values)


def runs(found: Candidates, case: Case) -> list[list[Target]]:
    """The candidates in the parts that are ordered for themselves: those that are well, then the others; each by model."""
    sort = case.provider.get("sort")
    together = isinstance(sort, dict) and sort.get("partition") == "none"
    parts: dict[Any, list[Target]] = {}
    for target in found.ordered:
        alone = (target.upstream, target.model) in found.left_alone
        parts.setdefault((alone, "" if together else target.public_model), []).append(target)
    return list(parts.values())


CHECKED = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@CHECKED
@given(case=cases())
def test_the_candidates_are_those_that_fit(upstreams: dict[str, Upstream], case: Case) -> None:
    (found,) = ask(case, upstreams, allow_fallbacks=True)
    answering = {
        Target(route.upstream, route.model, model_id)
        for model_id, model in case.models.items()
        for route in model.routes
        if not route.shadow
    }
    assert sorted(map(str, found.ordered)) == sorted(str(target) for target in answering if fits(target, case))
    assert {target for target, _ in found.left_out} == answering - set(found.ordered)
    assert all(case.route(target).shadow and fits(target, case) for target in found.shadows)


@CHECKED
@given(case=cases())
def test_the_order_is_what_was_asked_for(upstreams: dict[str, Upstream], case: Case) -> None:
    (found,) = ask(case, upstreams, allow_fallbacks=True)
    alone = [(target.upstream, target.model) in found.left_alone for target in found.ordered]
    assert ascending(alone), "who is left alone comes last"
    order = case.provider.get("order", [])
    for part in runs(found, case):
        places = [
            min((order.index(n) for n in (target.upstream, "openai") if n in order), default=9) for target in part
        ]
        assert ascending(places), "as provider.order names them"
        rest = [target for target, place in zip(part, places, strict=True) if place == 9]
        plain = [target for target in rest if not case.route(target).canary]
        if "price" in str(case.provider.get("sort")) and "preferred_max_latency" not in case.provider:
            assert ascending([case.route(target).price.input for target in plain])  # type: ignore[union-attr]
        first = next((place for place, target in enumerate(rest) if not case.route(target).canary), len(rest))
        assert len([target.public_model for target in rest[:first]]) <= len(case.models), (
            "one canary of a model at most"
        )


@CHECKED
@given(case=cases())
def test_models_are_tried_in_the_order_asked(upstreams: dict[str, Upstream], case: Case) -> None:
    (found,) = ask(case, upstreams, allow_fallbacks=True, sort=None)
    for part in (True, False):
        targets = [t for t in found.ordered if ((t.upstream, t.model) in found.left_alone) is part]
        assert ascending([case.asked.index(target.public_model) for target in targets])


@CHECKED
@given(case=cases())
def test_without_fallbacks_each_model_has_one_or_those_named(upstreams: dict[str, Upstream], case: Case) -> None:
    (found,) = ask(case, upstreams, allow_fallbacks=False)
    order = case.provider.get("order")
    if order:
        assert all(target.upstream in order or "openai" in order for target in found.ordered)
    else:
        models_served = [target.public_model for target in found.ordered]
        assert len(models_served) == len(set(models_served))


@CHECKED
@given(case=cases(conversation=True))
def test_a_conversation_is_always_answered_the_same(upstreams: dict[str, Upstream], case: Case) -> None:
    found = ask(case, upstreams, again=3)
    assert found[0] == found[1] == found[2]

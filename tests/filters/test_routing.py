"""Which targets a request gets, in which order: the catalogue, the client's preferences, the key's scope, the breakers."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xrouter.catalog import Catalog
from xrouter.config.load import load
from xrouter.context import Endpoint, Principal, RequestContext, Route
from xrouter.errors import BadRequest, Forbidden, ModelNotFound, NotFound, XRouterError
from xrouter.filters.routing import Routing
from xrouter.providers.upstreams import build_upstreams
from xrouter.routing.health import Health
from xrouter.surfaces.openai import read_call
from xrouter.wire import encode_json
from xrouter.world import RealWorld

CONFIG = """
upstreams:
  dear: {provider: openai, base_url: "http://127.0.0.1:1/v1"}
  cheap: {provider: openai, base_url: "http://127.0.0.1:2/v1"}
  yandex: {provider: yandexgpt, base_url: "http://127.0.0.1:3", folder: f, api_key: k}
models:
  a/two:
    aliases: [two]
    price: {input: "2", output: "4", per: 1000, request: "0.1"}
    routes: [{upstream: dear, model: m}, {upstream: cheap, model: n, price: {input: "0.5", output: "1", per: 1000}}]
  a/one: {price: free, inputs: [text, image], variants: {rc: rc}, routes: [{upstream: yandex, model: yandexgpt}]}
  a/vectors: {kind: embedding, price: free, routes: [{upstream: cheap, model: e}]}
filters: [{auth: {}}, {body: {}}, {routing: {}}]
"""
ENDPOINT = Endpoint("chat", "POST", inference=True)


class Bench:
    def __init__(self, folder: Path) -> None:
        (folder / "x.yaml").write_text(CONFIG)
        settings = load(folder / "x.yaml", {})
        world = RealWorld()
        self.health = Health(world)
        self.services: Any = SimpleNamespace(
            settings=settings, world=world, catalog=Catalog(settings), health=self.health,
            upstreams=build_upstreams(settings.upstreams, world),
        )  # fmt: skip

    async def route(
        self, *, scope: set[str] | None = None, kind: str = "chat", config: Any = None, **body: Any
    ) -> Route:
        ctx = RequestContext("r", "g", ENDPOINT, 0.0, 1_800_000_000.0)
        ctx.principal = Principal("k", "acme", models=None if scope is None else frozenset(scope))
        fields = {"input": "x"} if kind == "embeddings" else {"messages": [{"role": "user", "content": "x"}]}
        ctx.call = read_call(kind, encode_json({**fields, **body}))
        reached: list[Any] = []

        async def app(asgi: Any, receive: Any, send: Any) -> None:
            reached.append(asgi)

        nothing: Callable[..., Awaitable[Any]] = app
        await Routing(app, config or Routing.Config(), self.services)({"xrouter": ctx}, nothing, nothing)
        assert reached
        return ctx.route

    async def upstreams(self, **body: Any) -> list[str]:
        return [target.upstream for target in (await self.route(**body)).targets]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("provider", "upstreams"),
    [
        (None, ["dear", "cheap"]),
        ({}, ["dear", "cheap"]),
        ({"order": ["cheap"]}, ["cheap", "dear"]),
        ({"order": ["nobody", "cheap", "dear"]}, ["cheap", "dear"]),
        ({"order": ["openai"]}, ["dear", "cheap"]),
        ({"only": ["cheap"]}, ["cheap"]),
        ({"ignore": ["dear"]}, ["cheap"]),
        ({"allow_fallbacks": False}, ["dear"]),
        ({"allow_fallbacks": False, "order": ["cheap"]}, ["cheap"]),
        ({"sort": "price"}, ["cheap", "dear"]),
        ({"sort": {"by": "price"}}, ["cheap", "dear"]),
        ({"sort": "price", "order": ["dear"]}, ["dear", "cheap"]),
        ({"sort": "latency"}, ["dear", "cheap"]),
        ({"max_price": {"prompt": 2000}}, ["dear", "cheap"]),
        ({"max_price": {"prompt": 1999.99}}, ["cheap"]),
        ({"max_price": {"prompt": 500, "completion": 1000}}, ["cheap"]),
        ({"max_price": {"request": 0}}, ["cheap"]),
        ({"max_price": {"request": 0.1, "image": 0}}, ["dear", "cheap"]),
        ({"max_price": {}}, ["dear", "cheap"]),
        ({"require_parameters": True}, ["dear", "cheap"]),
    ],
)
async def test_preferences(bench: Bench, provider: Any, upstreams: list[str]) -> None:
    assert await bench.upstreams(model="a/two", provider=provider) == upstreams


@pytest.mark.parametrize(
    "provider",
    [
        {"only": []},
        {"only": ["nobody"]},
        {"ignore": ["openai"]},
        {"max_price": {"prompt": 1}},
        {"max_price": {"completion": -1}},
    ],
)
async def test_preferences_that_leave_nothing(bench: Bench, provider: Any) -> None:
    with pytest.raises(NotFound) as refused:
        await bench.route(model="a/two", provider=provider)
    assert refused.value.param == "provider"


async def test_parameters_that_have_to_be_honoured(bench: Bench) -> None:
    required = {"require_parameters": True}
    assert await bench.upstreams(model="a/one", provider=required, max_tokens=5) == ["yandex"]
    with pytest.raises(NotFound):
        await bench.route(model="a/one", provider=required, logit_bias={"1": 1})
    assert await bench.upstreams(model="a/one", models=["a/two"], provider=required, logit_bias={"1": 1}) == [
        "dear",
        "cheap",
    ]
    assert await bench.upstreams(model="a/one", provider=required, logit_bias=None, usage={"include": True}) == [
        "yandex"
    ]


async def test_several_models_are_tried_in_order(bench: Bench) -> None:
    route = await bench.route(model="no/such", models=["a/one:rc", "two", "a/two"])
    assert [(target.public_model, target.model) for target in route.targets] == [
        ("a/one:rc", "yandexgpt/rc"), ("a/two", "m"), ("a/two", "n"),
    ]  # fmt: skip
    assert (await bench.route(models=["two"])).requested == "a/two"
    assert (await bench.route(model="two")).requested == "two"


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"model": "no/such"}, ModelNotFound),
        ({"model": "a/two "}, ModelNotFound),
        ({"model": "A/TWO"}, ModelNotFound),
        ({"model": "a/two", "scope": {"a/one"}}, Forbidden),
        ({"model": "a/vectors"}, BadRequest),
        ({"model": "a/two", "kind": "embeddings"}, BadRequest),
    ],
)
async def test_refusals(bench: Bench, body: dict[str, Any], refusal: type[XRouterError]) -> None:
    with pytest.raises(refusal):
        await bench.route(**body)


@pytest.mark.parametrize("allowed", [{"a/one"}, {"a/*"}, {"a/one:rc"}, {"b/x", "a/one"}])
async def test_a_scope_that_has_the_model(bench: Bench, allowed: set[str]) -> None:
    assert (await bench.route(scope=allowed, model="a/one:rc")).targets


@pytest.mark.parametrize("allowed", [set(), {"a"}, {"*"}, {"a/on"}, {"a/one:"}, {"A/ONE"}, {"a/two"}])
async def test_a_scope_that_has_it_not(bench: Bench, allowed: set[str]) -> None:
    with pytest.raises(Forbidden):
        await bench.route(scope=allowed, model="a/one:rc")


async def test_targets_in_trouble_come_last(bench: Bench) -> None:
    for _ in range(5):
        bench.health.begin(("dear", "m"))
        bench.health.failed(("dear", "m"), "status", None)
    assert await bench.upstreams(model="a/two") == ["cheap", "dear"]
    assert await bench.upstreams(model="a/two", provider={"allow_fallbacks": False}) == ["cheap"]
    alone = {"order": ["dear"], "allow_fallbacks": False}
    assert await bench.upstreams(model="a/two", provider=alone) == ["dear"]
    config = Routing.Config(fallback=False)
    assert [target.upstream for target in (await bench.route(model="a/two", config=config)).targets] == ["cheap"]


async def test_images_go_to_models_that_see(bench: Bench) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]
    assert await bench.upstreams(model="a/one", messages=picture) == ["yandex"]
    with pytest.raises(BadRequest):
        await bench.route(model="a/two", messages=picture)


@pytest.mark.parametrize("before", [{"model": "a/two"}, {"model": "two"}])
async def test_what_a_name_gave_before_holds_for_nobody_else(bench: Bench, before: dict[str, Any]) -> None:
    """Candidates are kept by name: never past an ejection, a wish of the request, the key's scope or images."""
    assert await bench.upstreams(**before) == ["dear", "cheap"]
    bench.health.begin(("dear", "m"))
    bench.health.eject(("dear", "m"), "probe", None, 60.0)
    assert await bench.upstreams(**before) == ["cheap", "dear"]
    bench.health.restore(("dear", "m"))
    assert await bench.upstreams(**before) == ["dear", "cheap"]
    assert await bench.upstreams(**before, provider={"order": ["cheap"]}) == ["cheap", "dear"]
    assert await bench.upstreams(model=f"{before['model']}:floor") == ["cheap", "dear"]
    with pytest.raises(Forbidden):
        await bench.route(**before, scope={"a/one"})
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(BadRequest):
        await bench.route(**before, messages=[{"role": "user", "content": [image]}])
    with pytest.raises(BadRequest):
        await bench.route(**before, kind="embeddings")

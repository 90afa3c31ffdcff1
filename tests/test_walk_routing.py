"""Routing as clients and operators see it, over real sockets: conversations, shadows, tiers, what the catalogue tells."""

from collections import Counter
from collections.abc import Iterator

import pytest
from kit.gateway import CHAIN, RunningGateway, new_key, running_gateway
from kit.hostile import answer, answering
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, post, until

JSON = "content-type: application/json"
CONFIG = """
upstreams:
  one: {provider: openai, base_url: "${ONE_URL}", data_collection: deny}
  two: {provider: openai, base_url: "${TWO_URL}", zdr: true}
models:
  acme/even:
    created: 1
    context: 8000
    price: {input: "0.002", output: "0.004", per: 1000}
    routes:
      - {upstream: one, model: m, weight: 1}
      - {upstream: two, model: m, weight: 1, price: {input: "0.001", output: "0.001", per: 1000}}
  acme/shadowed:
    created: 3
    price: free
    routes: [{upstream: one, model: m}, {upstream: two, model: shadow, shadow: 100}]
  acme/two:
    created: 2
    context: 32000
    aliases: [openrouter/auto]
    price: {input: "0.1", output: "0.1", per: 1000}
    routes: [{upstream: two, model: m}]
tiers:
  narrow: {upstreams: [two], models: [acme/even, acme/two]}
"""


def reply_of(name: str) -> bytes:
    body = (
        f'{{"id":"up","model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{name}"}},'
        '"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}'
    )
    return answer(body.encode(), JSON)


@pytest.fixture(scope="module")
def one() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def two() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def running(one: Scripted, two: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("routing")
    with running_gateway(CONFIG + CHAIN, {"ONE_URL": one.url, "TWO_URL": two.url}, folder) as gateway:
        yield gateway


@pytest.fixture
def gateway(one: Scripted, two: Scripted, running: RunningGateway) -> RunningGateway:
    one.set(answering(reply_of("one")))
    two.set(answering(reply_of("two")))
    return running


def test_a_conversation_stays_and_conversations_are_shared_out(gateway: RunningGateway) -> None:
    served: Counter[str] = Counter()
    for number in range(16):
        names = {"session_id": f"talk-{number}"}
        asked = [chat(gateway, "acme/even", "?", **names).headers["x-xrouter-upstream"] for _ in range(3)]
        assert len(set(asked)) == 1
        served[asked[0]] += 1
    assert set(served) == {"one", "two"}


def test_the_header_names_the_conversation_too(gateway: RunningGateway) -> None:
    for number in range(8):
        body = {"model": "acme/even", "messages": [{"role": "user", "content": "?"}]}
        by_header = post(gateway, "/v1/chat/completions", headers={"x-session-id": f"talk-{number}"}, **body)
        by_field = chat(gateway, "acme/even", "?", prompt_cache_key=f"talk-{number}")
        assert by_header.headers["x-xrouter-upstream"] == by_field.headers["x-xrouter-upstream"]


def test_a_shadow_gets_a_copy_and_the_client_never_its_answer(
    one: Scripted, two: Scripted, gateway: RunningGateway
) -> None:
    for _ in range(3):
        reply = chat(gateway, "acme/shadowed", "Copied?")
        assert reply.json()["choices"][0]["message"]["content"] == "one"
        assert reply.headers["x-xrouter-upstream"] == "one"
    until(lambda: len(two.requests) == 3, timeout_s=20)
    assert all(b'"model":"shadow"' in request and b"Copied?" in request for request in two.requests)
    assert len(one.requests) == 3


def test_a_request_that_forbids_an_upstream_is_not_copied_there(two: Scripted, gateway: RunningGateway) -> None:
    reply = chat(gateway, "acme/shadowed", "Secret", provider={"data_collection": "deny"})
    assert reply.headers["x-xrouter-upstream"] == "one"
    assert chat(gateway, "acme/shadowed", "Copied").status_code == 200
    until(lambda: len(two.requests) == 1, timeout_s=20)
    assert b"Secret" not in two.requests[0]


def test_a_tier_has_its_models_and_upstreams(gateway: RunningGateway) -> None:
    auth = {"Authorization": f"Bearer {new_key(gateway.store, tier='narrow', account='narrow')}"}
    question = {"messages": [{"role": "user", "content": "?"}]}
    for number in range(6):
        reply = post(
            gateway, "/v1/chat/completions", headers=auth, model="acme/even", session_id=f"talk-{number}", **question
        )
        assert reply.headers["x-xrouter-upstream"] == "two"
    assert post(gateway, "/v1/chat/completions", headers=auth, model="acme/shadowed", **question).status_code == 403
    listed = gateway.client.get("/api/v1/models", headers=auth).json()["data"]
    assert {model["id"] for model in listed} == {"acme/even", "acme/two", "openrouter/auto"}
    assert listed[0]["pricing"]["prompt"] == "0.000001", "the price of the upstream that serves this tier"
    endpoints = gateway.client.get("/api/v1/models/acme/even/endpoints", headers=auth).json()["data"]["endpoints"]
    assert [endpoint["provider_name"] for endpoint in endpoints] == ["two"]
    assert gateway.client.get("/api/v1/models/acme/shadowed/endpoints", headers=auth).status_code == 404


def test_endpoints_tell_their_price_and_how_they_have_done(gateway: RunningGateway) -> None:
    for _ in range(2):
        assert chat(gateway, "acme/two", "?").status_code == 200
    answered = gateway.client.get("/api/v1/models/acme/even/endpoints").json()["data"]["endpoints"]
    assert [(endpoint["provider_name"], endpoint["pricing"]["prompt"]) for endpoint in answered] == [
        ("one", "0.000002"), ("two", "0.000001"),
    ]  # fmt: skip
    two = answered[1]
    assert two["status"] == 0
    assert two["uptime_last_5m"] == two["uptime_last_30m"] == two["uptime_last_1d"] == 100
    assert two["latency_last_30m"].keys() == {"p50", "p75", "p90", "p99"}
    assert 0 < two["latency_last_30m"]["p50"] < 60_000, "milliseconds"
    (shadowed,) = gateway.client.get("/api/v1/models/acme/shadowed/endpoints").json()["data"]["endpoints"]
    assert shadowed["provider_name"] == "one", "a shadow serves nobody"


def test_endpoints_that_keep_nothing(gateway: RunningGateway) -> None:
    found = gateway.client.get("/api/v1/endpoints/zdr").json()["data"]
    assert [(endpoint["model_id"], endpoint["provider_name"]) for endpoint in found] == [
        ("acme/even", "two"), ("acme/two", "two"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["acme/even", "acme/shadowed", "acme/two", "openrouter/auto"]),
        ("q=TWO", ["acme/two", "openrouter/auto"]),
        ("providers=two", ["acme/even", "acme/two", "openrouter/auto"]),
        ("providers=nobody,one", ["acme/even", "acme/shadowed"]),
        ("model_authors=acme&context=8001", ["acme/two", "openrouter/auto"]),
        ("max_price=0", ["acme/shadowed"]),
        ("min_price=2&max_price=100", ["acme/even", "acme/two", "openrouter/auto"]),
        ("min_output_price=4.5", ["acme/two", "openrouter/auto"]),
        ("zdr=true", ["acme/even", "acme/two", "openrouter/auto"]),
        ("output_modalities=embeddings", []),
        ("output_modalities=all&input_modalities=text", ["acme/even", "acme/shadowed", "acme/two", "openrouter/auto"]),
        ("sort=newest&category=programming", ["acme/shadowed", "acme/two", "openrouter/auto", "acme/even"]),
        ("sort=pricing-high-to-low", ["acme/two", "openrouter/auto", "acme/even", "acme/shadowed"]),
        ("sort=pricing-low-to-high", ["acme/shadowed", "acme/even", "acme/two", "openrouter/auto"]),
        ("sort=context-high-to-low", ["acme/two", "openrouter/auto", "acme/even", "acme/shadowed"]),
        ("sort=popular&limit=1&offset=1", ["acme/shadowed"]),
    ],
)
def test_the_list_of_models_is_filtered_and_sorted(running: RunningGateway, query: str, ids: list[str]) -> None:
    answered = running.client.get(f"/api/v1/models?{query}").json()
    assert [model["id"] for model in answered["data"]] == ids
    if "limit" not in query:
        assert running.client.get(f"/api/v1/models/count?{query}").json()["data"]["count"] == len(ids)


@pytest.mark.parametrize("query", ["min_price=much", "max_price=nan", "max_price=inf", "zdr=maybe", "context=-1"])
def test_a_filter_that_cannot_be_read_is_refused(running: RunningGateway, query: str) -> None:
    reply = running.client.get(f"/api/v1/models?{query}")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == query.partition("=")[0]

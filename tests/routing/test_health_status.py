"""What `GET providers/status` and `/metrics` tell of upstreams in trouble: a real gateway with two upstreams."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from kit.gateway import CHAIN, RunningGateway, new_key, running_gateway
from kit.hostile import answer, answering
from kit.redis_server import running_redis
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, metric, until

CONFIG = """
upstreams:
  first: {provider: openai, base_url: "${FIRST_URL}", api_key: sk-canary-of-the-first-upstream}
  second: {provider: openai, base_url: "${SECOND_URL}"}
models:
  both/chat: {price: free, routes: [{upstream: first, model: a}, {upstream: second, model: b}]}
  other/chat: {price: free, routes: [{upstream: first, model: c}]}
""" + CHAIN.replace("retries: 2", "retries: 0, breaker: {failures: 2, open_s: 30}")
WHOLE = answer(
    b'{"id":"up","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Lima"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":9}}',
    "content-type: application/json",
)
BROKEN = answer(b"{}", "content-type: application/json", status="500 No")


@pytest.fixture(scope="module")
def first() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture
def gateway(first: Scripted, tmp_path: Path) -> Iterator[RunningGateway]:
    with scripted_upstream() as second:
        second.set(answering(WHOLE))
        with running_gateway(CONFIG, {"FIRST_URL": first.url, "SECOND_URL": second.url}, tmp_path) as running:
            yield running


def status(gateway: RunningGateway, key: str | None = None) -> dict[str, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key or gateway.key}"}
    reply = gateway.client.get("/api/v1/providers/status", headers=headers)
    assert reply.status_code == 200
    return {upstream["name"]: upstream for upstream in reply.json()["data"]}


def test_before_any_call_all_are_well_and_nothing_is_known(gateway: RunningGateway) -> None:
    told = status(gateway)
    assert [upstream["status"] for upstream in told.values()] == ["ok", "ok"]
    (model,) = told["second"]["models"]
    assert (model["model"], model["serves"], model["state"]) == ("b", ["both/chat"], "closed")
    assert model["uptime_last_1d"] is None
    assert model["latency_last_30m"] is None


def test_one_in_trouble_and_how_the_other_does(first: Scripted, gateway: RunningGateway) -> None:
    first.set(answering(BROKEN))
    for _ in range(3):
        assert chat(gateway, "both/chat", "Peru?").status_code == 200
    told = status(gateway)
    assert told["first"]["status"] == "degraded", "its other model is not known to be in trouble"
    ejected = next(model for model in told["first"]["models"] if model["model"] == "a")
    assert (ejected["state"], ejected["reason"], ejected["last_error"]) == ("open", "failures", "status")
    assert ejected["uptime_last_5m"] == 0.0
    assert 20 < seconds_between(ejected["since"], ejected["retry_at"]) < 31
    (well,) = told["second"]["models"]
    assert well["uptime_last_5m"] == 100.0
    assert 0 < well["latency_last_30m"]["p50"] <= well["latency_last_30m"]["p99"]
    assert well["throughput_last_30m"]["p50"] > 0
    assert metric(gateway, "xrouter_upstream_ejected", upstream="first", model="a") == 1
    assert metric(gateway, "xrouter_upstream_ejections_total", upstream="first", reason="failures") == 1
    for _ in range(2):
        assert chat(gateway, "other/chat", "Peru?").status_code == 502
    assert status(gateway)["first"]["status"] == "down"


def test_a_key_is_told_of_its_own_models_only(gateway: RunningGateway) -> None:
    scoped = new_key(gateway.store, account="others", models=("other/chat",))
    told = status(gateway, scoped)
    assert list(told) == ["first"]
    assert [model["model"] for model in told["first"]["models"]] == ["c"]


def test_a_key_is_needed(gateway: RunningGateway) -> None:
    reply = gateway.client.get("/api/v1/providers/status", headers={"Authorization": ""})
    assert reply.status_code == 401


def test_two_gateways_on_one_redis_know_of_each_others_upstreams(first: Scripted, tmp_path: Path) -> None:
    """Fails when the application does not connect its health to the Redis of its configuration, or lets go of it."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with running_redis(tmp_path) as redis, scripted_upstream() as second:
        first.set(answering(BROKEN))
        second.set(answering(WHOLE))
        config = f"redis: {redis.url}\n" + CONFIG
        environ = {"FIRST_URL": first.url, "SECOND_URL": second.url}
        with (
            running_gateway(config, environ, folders[0]) as one,
            running_gateway(config, environ, folders[1]) as two,
        ):
            until(lambda: one.app.health.shared is True and two.app.health.shared is True, timeout_s=20)
            assert metric(one, "xrouter_health_degraded") == 0
            until(lambda: chat(one, "both/chat", "?").status_code == 200 and ejected(one), timeout_s=20)
            until(lambda: ejected(two), timeout_s=20)
            assert metric(two, "xrouter_upstream_ejections_total", upstream="first", reason="peer") == 1
            before = len(first.requests)
            assert chat(two, "both/chat", "?").headers["x-xrouter-upstream"] == "second"
            assert len(first.requests) == before
            redis.kill()
            until(lambda: metric(one, "xrouter_health_degraded") == 1, timeout_s=20)
            assert chat(one, "both/chat", "?").status_code == 200


def test_f36_a_provider_that_echoes_our_key_is_not_quoted(first: Scripted, gateway: RunningGateway) -> None:
    """Its body, its reason phrase and its headers hold the gateway's own credential.

    Fails when health keeps an error's text instead of its kind, and the providers' masking of it is off.
    """
    key = "sk-canary-of-the-first-upstream"
    body = b'{"error": {"message": "bad key ' + key.encode() + b'"}}'
    for status_line in (f"500 {key}", f"429 {key}", f"401 {key}"):
        first.set(answering(answer(body, f"retry-after: {key}", f"x-echo: {key}", status=status_line)))
        for _ in range(2):
            assert key not in chat(gateway, "other/chat", "?").text
    told = "".join(gateway.client.get(path).text for path in ("/api/v1/providers/status", "/health", "/metrics"))
    assert '"state":"open"' in told.replace(": ", ":")
    assert key not in told
    assert key.encode() not in gateway.log.text


def ejected(gateway: RunningGateway) -> bool:
    return metric(gateway, "xrouter_upstream_ejected", upstream="first", model="a") == 1


def seconds_between(early: str, late: str) -> float:
    return (datetime.fromisoformat(late) - datetime.fromisoformat(early)).total_seconds()

"""The outermost frame, through a whole gateway: ids, headers, addresses, the log line, metrics, health."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from kit.gateway import CHAIN, RunningGateway, new_key, running_gateway
from kit.walk import MODELS, UPSTREAMS, chat, chat_stream, forget, metric, record_of

from xrouter.sandbox.running import Sandbox, running_sandbox

PROXIES = ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32")


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    return forget(running)


@pytest.fixture(scope="module")
def gateway(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    proxies = {"trusted_proxies": PROXIES}
    with running_gateway(UPSTREAMS + MODELS + CHAIN, running.environ, folder, server=proxies) as gateway:
        yield gateway


@pytest.mark.parametrize("sent", ["abc", "0199-A.b:c_d", "x" * 128])
def test_a_clients_request_id_is_kept(sandbox: Sandbox, gateway: RunningGateway, sent: str) -> None:
    answer = gateway.client.get("/v1/models", headers={"X-Request-Id": sent})
    assert answer.headers["x-request-id"] == sent
    assert gateway.log.request(sent)["endpoint"] == "models"


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "<script>", "ключ".encode(), '"; drop'])
def test_another_one_is_replaced(sandbox: Sandbox, gateway: RunningGateway, sent: Any) -> None:
    answer = gateway.client.get("/v1/models", headers={"X-Request-Id": sent})
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", answer.headers["x-request-id"]
    )


def test_headers_of_an_answer(sandbox: Sandbox, gateway: RunningGateway) -> None:
    for answer in (chat(gateway, "local/large", "x"), chat_stream(gateway, "local/large", "x")):
        assert answer.headers["x-generation-id"].startswith("gen-")
        assert answer.headers["x-xrouter-upstream"] == "local"
        assert 0 <= float(answer.headers["x-xrouter-overhead-ms"]) < 500
    query = gateway.client.get("/v1/models")
    assert "x-generation-id" not in query.headers
    assert "server" not in query.headers


def test_what_was_not_kept_is_told(sandbox: Sandbox, gateway: RunningGateway) -> None:
    answer = chat(gateway, "gigachat/max", "x", temperature=1.5, tool_choice="required", tools=[
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}} for name in "ab"
    ])  # fmt: skip
    assert answer.status_code == 200
    assert answer.headers["x-xrouter-downgraded"]


def test_the_overhead_leaves_the_upstream_out(sandbox: Sandbox, gateway: RunningGateway) -> None:
    for stream in (False, True):
        answer = chat(gateway, "local/large", "[[emu:latency=0.3]] x", stream=stream)
        record = record_of(gateway, answer)
        assert record["duration_ms"] > 300
        assert record["overhead_ms"] < 150
        assert record["first_token_ms"] > 300


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ([], "127.0.0.1"),
        (["192.0.2.7"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.1.2.3"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7, 10.1.2.3, 10.9.9.9"], "192.0.2.7"),
        (["192.0.2.7", "10.1.2.3"], "192.0.2.7"),
        (["2001:db8::1"], "2001:db8::1"),
        (["2001:DB9:0::1, 2001:db8::1"], "2001:db9::1"),
        (["unknown"], "127.0.0.1"),
        (["192.0.2.7, unknown, 10.1.2.3"], "10.1.2.3"),
        (["10.1.2.3"], "10.1.2.3"),
        ([""], "127.0.0.1"),
        (["x" * 5000], "127.0.0.1"),
    ],
)
def test_the_clients_address(sandbox: Sandbox, gateway: RunningGateway, forwarded: list[str], address: str) -> None:
    """The last one that no trusted proxy has added: what stands before it, anybody may have written."""
    headers = [("X-Forwarded-For", value) for value in forwarded]
    answer = gateway.client.get("/v1/models", headers=headers)
    assert gateway.log.request(answer.headers["x-request-id"])["client_ip"] == address


def test_the_log_line_of_a_chat(sandbox: Sandbox, gateway: RunningGateway) -> None:
    answer = chat(gateway, "gigachat-max", "совершенно секретный вопрос")
    record = record_of(gateway, answer)
    assert set(record) >= {
        "ts", "level", "event", "request_id", "generation_id", "endpoint", "status", "duration_ms", "overhead_ms",
        "client_ip", "key_id", "account", "model", "stream", "outcome", "upstream", "upstream_model", "upstream_id",
        "finish_reason", "input_tokens", "output_tokens", "usage_source", "first_token_ms",
    }  # fmt: skip
    assert record["model"] == "gigachat-max"
    assert record["account"] == "tests"
    assert record["upstream_model"].startswith("GigaChat-2-Max")
    text = gateway.log.text.decode()
    assert "секретный" not in text
    assert gateway.key not in text
    assert record["key_id"] not in gateway.key


def test_a_log_line_of_an_unknown_key(gateway: RunningGateway) -> None:
    answer = httpx2.get(gateway.url + "/v1/models", headers={"Authorization": "Bearer xr-wrong"}, verify=False)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    record = gateway.log.request(answer.headers["x-request-id"])
    assert record["error"] == "authentication_error"
    assert record["origin"] == "client"
    assert "key_id" not in record
    assert "xr-wrong" not in str(record)


def test_metrics_count_what_happened(sandbox: Sandbox, gateway: RunningGateway) -> None:
    labels = {"endpoint": "chat", "model": "gigachat/max", "upstream": "giga", "status": "200"}
    before = metric(gateway, "xrouter_requests_total", **labels)
    tokens = metric(gateway, "xrouter_tokens_total", model="gigachat/max", kind="output", source="reported")
    usage = chat(gateway, "gigachat-max", "x").json()["usage"]
    assert metric(gateway, "xrouter_requests_total", **labels) == before + 1
    after = metric(gateway, "xrouter_tokens_total", model="gigachat/max", kind="output", source="reported")
    assert after == tokens + usage["completion_tokens"]
    assert metric(gateway, "xrouter_in_flight") == 0
    exposition = gateway.client.get("/metrics")
    assert exposition.headers["content-type"].startswith("text/plain")
    for name in ("requests_total", "errors_total", "upstream_errors_total", "request_seconds_bucket",
                 "first_token_seconds_bucket", "overhead_seconds_bucket", "tokens_total", "in_flight",
                 "upstream_connections", "upstream_calls", "stream_end_total"):  # fmt: skip
        assert f"xrouter_{name}" in exposition.text


def test_health(gateway: RunningGateway) -> None:
    for path in ("/health/live", "/health/ready", "/health"):
        answer = httpx2.get(gateway.url + path, verify=False)  # without a key
        assert answer.status_code == 200
    assert set(answer.json()["components"]) >= {
        "store",
        "serving",
        "upstream:giga",
        "upstream:yandex",
        "upstream:local",
    }
    gateway.app.draining = True
    try:
        assert httpx2.get(gateway.url + "/health/ready", verify=False).status_code == 503
        assert httpx2.get(gateway.url + "/health/live", verify=False).status_code == 200
    finally:
        gateway.app.draining = False


def test_a_key_may_use_its_models_only(sandbox: Sandbox, gateway: RunningGateway) -> None:
    key = new_key(gateway.store, name="narrow", models=("gigachat/*", "yandexgpt/pro"))
    with httpx2.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}, verify=False) as client:
        ids = {model["id"] for model in client.get("/v1/models").json()["data"]}
        assert ids >= {"gigachat/max", "gigachat-max", "yandexgpt/pro:rc", "yandexgpt"}
        assert not {name for name in ids if name.startswith(("local", "qwen", "both"))}
        body: dict[str, Any] = {"model": "local/large", "messages": [{"role": "user", "content": "x"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 403
        assert client.get("/v1/models/local/large").status_code == 404
        assert client.post("/v1/chat/completions", json={**body, "model": "gigachat/max"}).status_code == 200
    assert sandbox.state.count("openai") == 0

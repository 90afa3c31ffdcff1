"""Whole requests through the shipped configuration, the sandbox behind it: what a stranger does first."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from kit.gateway import RunningGateway, running_gateway

from xrouter.sandbox.running import Sandbox, running_sandbox

SHIPPED = Path(__file__).parent.parent / "config" / "xrouter.yaml"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    environ = {**sandbox.environ, "XROUTER_STORE": f"sqlite:///{folder / 'x.db'}"}
    with running_gateway(SHIPPED.read_text(), environ, folder) as running:
        yield running


@pytest.mark.parametrize("model", ["gigachat/max", "gigachat/lite", "yandexgpt/pro", "yandexgpt/pro:rc", "yandexgpt"])
def test_a_chat_completion_is_answered(gateway: RunningGateway, model: str) -> None:
    answer = httpx2.post(
        gateway.base_url + "/chat/completions",
        headers=gateway.auth,
        json={"model": model, "messages": [{"role": "user", "content": "Столица Перу?"}]},
    )
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == model
    assert body["id"] == answer.headers["x-generation-id"]
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


def test_the_receipt_tells_each_filters_decision_and_time(gateway: RunningGateway) -> None:
    answer = httpx2.post(
        gateway.base_url + "/chat/completions",
        headers=gateway.auth,
        json={"model": "gigachat/max", "messages": [{"role": "user", "content": "Столица Перу?"}]},
    )
    receipt = httpx2.get(gateway.url + f"/api/v1/generation?id={answer.json()['id']}", headers=gateway.auth)
    steps = receipt.json()["data"]["xrouter"]["decisions"]
    assert [step["filter"] for step in steps] == [
        "auth", "rate_limit", "body", "routing", "token_count", "quota", "dispatch",
    ]  # fmt: skip
    told = {step["filter"]: step["decision"] for step in steps}
    assert told["auth"] == "key test, tier none"
    assert told["body"].endswith(" bytes")
    assert told["routing"] == "1 target: giga"
    assert told["dispatch"] == "complete after 1 attempt"
    assert all(step["duration_ms"] >= 0 for step in steps[:-1])


def test_the_ledger_is_shown_to_be_right(gateway: RunningGateway) -> None:
    lines = httpx2.get(gateway.url + "/metrics").text.splitlines()
    assert "xrouter_ledger_imbalance 0.0" in lines
    with sqlite3.connect(gateway.store.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE accounts SET balance_nano = balance_nano + 7 WHERE name = '@revenue'")
        connection.commit()
        assert "xrouter_ledger_imbalance 7.0" in httpx2.get(gateway.url + "/metrics").text.splitlines()
        connection.execute("UPDATE accounts SET balance_nano = balance_nano - 7 WHERE name = '@revenue'")
    connection.close()

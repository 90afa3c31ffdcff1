"""Whole requests through the shipped configuration, the sandbox behind it: what a stranger does first."""

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

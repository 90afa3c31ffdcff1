"""OpenRouter's own SDK for TypeScript (npm `@openrouter/sdk`), run by Node. `make test` installs it with `npm ci` from the
lock file beside it; where it is missing, this fails and says how to get it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kit.gateway import RunningGateway

HERE = Path(__file__).parent / "node"
CHAT_MODELS = ["gigachat/max", "yandexgpt/pro", "qwen/qwen3", "local/large"]
EMBEDDING_MODELS = ["gigachat/embeddings", "yandex/doc", "local/embedding"]


def walked(gateway: RunningGateway) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules").is_dir():
        pytest.fail(f"needs Node.js and the SDK: run `npm ci` in {HERE}")
    environ = {
        **os.environ,
        "OPENROUTER_BASE_URL": gateway.url + "/api/v1",
        "OPENROUTER_API_KEY": gateway.key,
        "CHAT_MODELS": ",".join(CHAT_MODELS),
        "EMBEDDING_MODELS": ",".join(EMBEDDING_MODELS),
    }
    command = [node, "walk.mjs"]
    done = subprocess.run(command, cwd=HERE, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_sdk_takes_every_answer(gateway: RunningGateway) -> None:
    found = walked(gateway)
    for model in CHAT_MODELS:
        chat, stream = found["chats"][model], found["streams"][model]
        assert chat["model"] == model
        assert chat["total"] > 0
        assert stream["text"] == chat["text"]
        assert stream["finish"] == ["stop"]
        assert stream["usage"]["totalTokens"] > 0
        assert stream["error"] is None
        assert found["endpoints"][model] == 1
    assert found["embeddings"] == {model: [0, 1] for model in EMBEDDING_MODELS}
    assert found["models"] == [model["id"] for model in gateway.client.get("/api/v1/models").json()["data"]]
    assert set(found["providers"]) == {"giga", "yandex", "local"}
    assert found["cut"]["error"]["code"] == 502
    assert found["cut"]["finish"] == ["error"]
    refusals = {name: (error["status"], error["code"]) for name, error in found["errors"].items()}
    assert refusals == {"unknown": (404, 404), "wrong": (400, 400), "key": (401, 401)}

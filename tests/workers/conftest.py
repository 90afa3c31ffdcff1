from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.redis_server import running_redis

from xrouter.sandbox.running import Sandbox, running_sandbox

YAML = """
store: sqlite:///{folder}/gateway.db
redis: {redis}
server: {{port: 0, workers: {workers}, drain_s: 5}}
upstreams:
  local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}", concurrency: 200}}
models:
  local/large: {{price: {{input: "1", output: "2"}}, routes: [{{upstream: local, model: sandbox-large}}]}}
ledger: {{hold_lease_s: 2}}
filters: [auth, rate_limit, body, routing, token_count, quota]
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def config(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a gateway with three workers. Its door is in a folder of the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "xrouter.yaml"
    file.write_text(YAML.format(folder=tmp_path, redis=redis_url, workers=3))
    return file


@pytest.fixture
def alone(config: Path) -> Path:
    """Of a gateway with one process."""
    config.write_text(config.read_text().replace("workers: 3", "workers: 1"))
    return config

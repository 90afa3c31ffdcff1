"""A gateway whose SQLite file another process has locked."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from kit.gateway import RunningGateway, new_key, running_gateway
from kit.serving import command, serving

from xrouter.sandbox.running import Sandbox, running_sandbox

pytestmark = pytest.mark.sqlite_only
CONFIG = """
upstreams:
  local: {provider: openai, base_url: "${LOCAL_BASE_URL}", api_key: "${LOCAL_API_KEY}"}
models:
  paid/chat: {price: {input: "1", output: "2"}, routes: [{upstream: local, model: sandbox-large}]}
filters: [auth, body, routing, token_count, quota]
"""
BODY = {"model": "paid/chat", "messages": [{"role": "user", "content": "Столица Перу?"}], "max_tokens": 5}
REFUSED_S = 1.2
SLACK_S = 12.0  # what a busy machine adds
LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print(flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[None]:
    command = [sys.executable, "-c", LOCKER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.stdin.close()


def timed(gateway: RunningGateway, method: str, path: str, **options: object) -> tuple[httpx2.Response, float]:
    began = time.monotonic()
    response = gateway.client.request(method, path, **options)  # type: ignore[arg-type]
    return response, time.monotonic() - began


async def busy_timeout_ms(gateway: RunningGateway) -> int:
    assert gateway.app._engine is not None
    async with gateway.app._engine.connect() as connection:
        found: int = (await connection.exec_driver_sql("PRAGMA busy_timeout")).scalar_one()
        return found


def test_f14_f16_nobody_is_told_of_a_lock_and_nobody_waits_longer_than_the_rest(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Fails if one way to the store waits for SQLite's own busy time-out of 5 s, or hands on what SQLite said."""
    with running_gateway(CONFIG, sandbox.environ, tmp_path) as gateway, ThreadPoolExecutor(8) as threads:
        manager = {"Authorization": f"Bearer {new_key(gateway.store, management=True)}"}
        assert gateway.client.post("/v1/chat/completions", json=BODY).status_code == 200
        assert gateway.call(busy_timeout_ms(gateway)) < REFUSED_S * 1000
        with locked_by_another_process(tmp_path / "gateway.db"):
            asked = [threads.submit(timed, gateway, "POST", "/v1/chat/completions", json=BODY) for _ in range(6)]
            asked.append(threads.submit(timed, gateway, "POST", "/v1/keys", json={"name": "n"}, headers=manager))
            for one in asked:
                response, seconds = one.result()
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
                assert seconds < REFUSED_S + SLACK_S
                assert "lock" not in response.text
            assert gateway.client.get("/v1/key").status_code == 200  # who only reads waits for nobody
        assert gateway.client.post("/v1/chat/completions", json=BODY).status_code == 200


def config_on(store: Path) -> Path:
    config = store.with_name("xrouter.yaml")
    config.write_text(f"server: {{port: 0}}\nstore: sqlite:///{store}\n{CONFIG}")
    return config


def test_a_store_that_is_busy_when_the_gateway_starts_is_waited_for(sandbox: Sandbox, tmp_path: Path) -> None:
    """Fails where the first refusal is the end."""
    store = tmp_path / "busy.db"
    new_key(f"sqlite:///{store}")
    with ThreadPoolExecutor(1) as thread, ExitStack() as lock:
        lock.enter_context(locked_by_another_process(store))
        thread.submit(lambda: (time.sleep(4), lock.close()))
        with serving(config_on(store), sandbox.environ) as running:
            assert httpx2.get(f"{running.url}/health/ready").status_code == 200
            assert any("database is locked" in text for text in running.messages())
            assert running.stop() == 0


def test_a_store_that_cannot_be_written_ends_the_start_with_its_reason(sandbox: Sandbox, tmp_path: Path) -> None:
    """Fails where what nobody but the operator can mend is waited for as a lock is."""
    store = tmp_path / "store.db"
    new_key(f"sqlite:///{store}")
    connection = sqlite3.connect(store)
    connection.execute("DROP TABLE holders")
    connection.close()
    ended = command(sandbox.environ, "serve", "-c", str(config_on(store)))
    assert ended.returncode == 1
    assert "no such table: holders" in ended.stderr
    assert "Traceback" not in ended.stderr

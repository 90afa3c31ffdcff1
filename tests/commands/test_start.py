"""A gateway that is started before its PostgreSQL, or on one that it cannot use."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from kit.gateway import new_key
from kit.postgres_server import PostgresServer, running_postgres
from kit.redis_server import free_port, running_redis
from kit.serving import Serving, command, until, xrouter

from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.workers.control import socket_path

CONFIG = """
server: {{port: {port}, workers: {workers}, drain_s: 2}}
store: {store}
redis: {redis}
upstreams:
  local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}
models:
  paid/chat: {{price: {{input: "1", output: "2"}}, routes: [{{upstream: local, model: sandbox-large}}]}}
filters: [auth, rate_limit, body, routing, token_count, quota]
"""
BODY = {"model": "paid/chat", "messages": [{"role": "user", "content": "Столица Перу?"}], "max_tokens": 5}
SECOND = "  free/chat: {price: free, routes: [{upstream: local, model: sandbox-large}]}\n"
ENDS_S = 2.0  # SIGTERM of one that waits
SLACK_S = 8.0  # what a busy machine adds


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        server.sql("CREATE ROLE locked LOGIN PASSWORD 'right'", database="postgres")
        rules = (server.data / "pg_hba.conf").read_text()
        (server.data / "pg_hba.conf").write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{rules}")
        server.sql("SELECT pg_reload_conf()", database="postgres")
        yield server


@pytest.fixture
def config(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a gateway with one process, on a database that has its tables. Its journal is in the test's folder."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "xrouter.yaml"
    store = postgres.new_database().replace("xrouter@", "xrouter:canary-password@")
    file.write_text(CONFIG.format(port=free_port(), workers=1, store=store, redis="null"))
    upgraded = command({"LOCAL_BASE_URL": "http://x", "LOCAL_API_KEY": "x"}, "db", "upgrade", "-c", str(file))
    assert upgraded.returncode == 0, upgraded.stderr
    return file


def rewrite(config: Path, **values: str) -> None:
    """Give the keys `values`, wherever they stand."""
    text = config.read_text()
    for key, value in values.items():
        text = re.sub(rf"\b{key}: [^\s,}}]+", f"{key}: {value}", text, count=1)
    config.write_text(text)


def store_of(config: Path) -> str:
    found = re.search(r"^store: (.*)$", config.read_text(), re.MULTILINE)
    assert found
    return found[1]


@contextmanager
def started(config: Path, sandbox: Sandbox) -> Iterator[Serving]:
    """The gateway as a process, whether it serves or waits."""
    log_file = config.with_suffix(f".{time.monotonic_ns()}.log")
    port = re.search(r"port: (\d+)", config.read_text())
    assert port
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            xrouter("serve", "-c", str(config), "--json"),
            env={**os.environ, **sandbox.environ},
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        yield Serving(process, f"http://127.0.0.1:{port[1]}", config, log_file)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def waits(gateway: Serving) -> list[str]:
    return [text for text in gateway.messages() if text.startswith("waiting for the store")]


def status(gateway: Serving, path: str) -> int:
    """0 while nobody listens."""
    try:
        return httpx2.get(gateway.url + path, timeout=30).status_code
    except httpx2.TransportError:
        return 0


def announced(gateway: Serving) -> bytes:
    assert gateway.process.stdout is not None
    return gateway.process.stdout.readline()


def test_f13_a_store_that_comes_later_is_waited_for(config: Path, sandbox: Sandbox, postgres: PostgresServer) -> None:
    """Fails where the first refusal is the end, as it was, and where the address stays silent meanwhile."""
    key = {"Authorization": "Bearer " + new_key(store_of(config))}
    postgres.stop()
    try:
        with started(config, sandbox) as gateway:
            until(lambda: status(gateway, "/health/live") == 200, "it is alive")
            assert status(gateway, "/health/ready") == status(gateway, "/health") == 503
            refused = httpx2.post(gateway.url + "/v1/chat/completions", headers=key, json=BODY, timeout=30)
            assert refused.status_code == 503
            assert refused.json()["error"]["type"] == "store_unavailable"
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["x-request-id"]
            until(lambda: len(waits(gateway)) > 2, "it says so again")
            assert "postgresql://xrouter@127.0.0.1" in waits(gateway)[0]
            assert "Connection refused" in waits(gateway)[0]
            assert gateway.process.poll() is None
            postgres.start()
            assert announced(gateway).startswith(b'{"url"')
            assert status(gateway, "/health/ready") == 200
            answer = httpx2.post(gateway.url + "/v1/chat/completions", headers=key, json=BODY, timeout=30)
            assert answer.status_code == 200
            assert any(text.startswith("the store is there, after") for text in gateway.messages())
            assert gateway.stop() == 0
            assert "canary" not in gateway.log_file.read_text()
    finally:
        if not postgres.is_running:
            postgres.start()


def test_f13_workers_wait_for_their_store_without_dying(
    config: Path, sandbox: Sandbox, postgres: PostgresServer, tmp_path: Path
) -> None:
    """Fails where a worker that finds no store ends: the supervisor ends with it, or starts it over and over."""
    with running_redis(tmp_path) as redis:
        rewrite(config, workers="2", redis=redis.url)
        postgres.stop()
        try:
            with started(config, sandbox) as gateway:
                until(lambda: status(gateway, "/health/live") == 200, "one of them says that it is alive")
                until(lambda: len(waits(gateway)) >= 4, "both wait")
                assert status(gateway, "/health/ready") == 503
                assert not [text for text in gateway.messages() if "has ended" in text]
                postgres.start()
                assert announced(gateway).startswith(b'{"url"')
                assert {status(gateway, "/health/ready") for _ in range(20)} == {200}
                assert gateway.stop() == 0
        finally:
            if not postgres.is_running:
                postgres.start()


@pytest.mark.parametrize("workers", [1, 2])
def test_f21_a_gateway_that_waits_for_its_store_ends_when_it_is_told_to(
    config: Path, sandbox: Sandbox, tmp_path: Path, workers: int
) -> None:
    """Fails where the stop is noticed only once the store is there, or has another exit code than any stop."""
    with running_redis(tmp_path) as redis:
        away = f"postgresql://xrouter@127.0.0.1:{free_port()}/xrouter"
        rewrite(config, workers=str(workers), redis=redis.url, store=away)
        with started(config, sandbox) as gateway:
            until(lambda: status(gateway, "/health/live") == 200, "it is alive")
            began = time.monotonic()
            assert gateway.stop() == 0
            assert time.monotonic() - began < ENDS_S + SLACK_S
            assert announced(gateway) == b""
            assert not [record for record in gateway.log() if record.get("level") == "error"]


def test_f21_a_stop_does_not_wait_for_a_server_that_does_not_answer(
    config: Path, sandbox: Sandbox, postgres: PostgresServer
) -> None:
    """Fails where an attempt to connect is waited for: that has five seconds."""
    postgres.freeze()
    try:
        with started(config, sandbox) as gateway:
            until(lambda: socket_path(config).exists(), "it hears signals, and connects")
            began = time.monotonic()
            gateway.signal(signal.SIGTERM)
            assert gateway.process.wait(30) == 0
            assert time.monotonic() - began < 3.0
    finally:
        postgres.thaw()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://locked:wrong@{server}/postgres", "password authentication failed for user .*locked"),
        ("postgresql://nobody-here@{server}/postgres", "role .*nobody-here.* does not exist"),
        ("postgresql://xrouter@{server}/none", "database .*none.* does not exist"),
        ("postgresql://xrouter@{server}/postgres", "has schema none, this version needs"),
        ("postgresql://xrouter@{server}/postgres?sslmode=odd", "`sslmode` parameter must be one of"),
        ("postgresql://xrouter@{server}/postgres?sslmode=verify-full&sslrootcert=/none", "is no file: /none"),
        ("postgresql://xrouter:12/34@{server}/postgres", "a store is written"),
        ("postgresql://xrouter:wrong@127.0.0.1:port/postgres", "a store is written"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_does_not_pass_ends_the_start_at_once(
    config: Path, sandbox: Sandbox, postgres: PostgresServer, url: str, told: str, workers: int
) -> None:
    """Fails where everything is waited for, and where an address with a slash in its password is shown with a half of it."""
    store = url.format(server=f"127.0.0.1:{postgres.port}")
    rewrite(config, workers=str(workers), redis="redis://127.0.0.1:1", store=store)
    ended = command(sandbox.environ, "serve", "-c", str(config))
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert re.search(told, ended.stderr)
    assert "wrong@" not in ended.stderr
    assert "34@" not in ended.stderr


def test_a_store_that_comes_without_tables_is_said_and_ends_the_wait(
    config: Path, sandbox: Sandbox, postgres: PostgresServer
) -> None:
    rewrite(config, store=postgres.new_database())
    postgres.stop()
    try:
        with started(config, sandbox) as gateway:
            until(lambda: status(gateway, "/health/live") == 200, "it is alive")
            postgres.start()
            assert gateway.process.wait(30) == 1
            assert any("run `xrouter db upgrade" in text for text in gateway.messages())
    finally:
        if not postgres.is_running:
            postgres.start()


def test_f19_a_file_that_changes_while_the_store_is_waited_for_is_in_force_afterwards(
    config: Path, sandbox: Sandbox, postgres: PostgresServer
) -> None:
    """Fails where a reload of a gateway that has not started is refused: nobody asks for it again."""
    key = {"Authorization": "Bearer " + new_key(store_of(config))}
    postgres.stop()
    try:
        with started(config, sandbox) as gateway:
            until(lambda: status(gateway, "/health/live") == 200, "it is alive")
            changed = config.with_name("changed.yaml")
            changed.write_text(config.read_text().replace("models:\n", f"models:\n{SECOND}"))
            changed.rename(config)  # at once, so that no half of it is read
            gateway.signal(signal.SIGHUP)
            postgres.start()
            assert announced(gateway)

            def models() -> str:
                return httpx2.get(gateway.url + "/v1/models", headers=key, timeout=30).text

            until(lambda: "free/chat" in models(), "the new model")
            assert not [text for text in gateway.messages() if "reload refused" in text]
            assert gateway.stop() == 0
    finally:
        if not postgres.is_running:
            postgres.start()

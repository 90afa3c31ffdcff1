"""Upstreams that cannot be reached (F01) or say nothing (F02), with credits at stake: who serves, what clients are told."""

import asyncio
import contextlib
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
from kit.gateway import RunningGateway, running_gateway
from kit.hostile import Peer, answer
from kit.money import problems
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, metric, read_stream, record_of, until

from xrouter import keepalive

CONNECT_S = 1.0
FIRST_BYTE_S = 1.0
CONFIG = f"""
upstreams:
  refusing: {{provider: openai, base_url: "${{REFUSING}}", timeouts: &short {{connect_s: {CONNECT_S}, first_byte_s: 5}}}}
  nameless: {{provider: openai, base_url: "http://no-such-host.invalid/v1", timeouts: *short}}
  black_hole: {{provider: openai, base_url: "${{BLACK_HOLE}}", timeouts: *short}}
  silent: {{provider: openai, base_url: "${{SILENT}}", timeouts: {{connect_s: 5, first_byte_s: {FIRST_BYTE_S}}}}}
  alive: {{provider: openai, base_url: "${{ALIVE}}", concurrency: 100}}
models:
  refusing/alone: &paid
    price: {{input: "1", output: "2"}}
    balance: order
    routes: [{{upstream: refusing, model: m}}]
  nameless/alone: {{<<: *paid, routes: [{{upstream: nameless, model: m}}]}}
  black_hole/alone: {{<<: *paid, routes: [{{upstream: black_hole, model: m}}]}}
  silent/alone: {{<<: *paid, routes: [{{upstream: silent, model: m}}]}}
  refusing/first: {{<<: *paid, routes: [{{upstream: refusing, model: m}}, {{upstream: alive, model: m}}]}}
  nameless/first: {{<<: *paid, routes: [{{upstream: nameless, model: m}}, {{upstream: alive, model: m}}]}}
  black_hole/first: {{<<: *paid, routes: [{{upstream: black_hole, model: m}}, {{upstream: alive, model: m}}]}}
  silent/first: {{<<: *paid, routes: [{{upstream: silent, model: m}}, {{upstream: alive, model: m}}]}}
  all/first:
    <<: *paid
    routes:
      - {{upstream: refusing, model: m}}
      - {{upstream: nameless, model: m}}
      - {{upstream: black_hole, model: m}}
      - {{upstream: alive, model: m}}
filters:
  - auth: {{}}
  - body: {{}}
  - routing: {{retries: 0, breaker: {{failures: 1000}}, outlier: null}}
  - token_count: {{}}
  - quota: {{}}
"""
UNREACHABLE = ("refusing", "nameless", "black_hole")


@pytest.fixture(scope="module")
def black_hole() -> Iterator[str]:
    """An address that takes no connection and refuses none: a listener whose queue is full drops what comes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/v1"
        for filler in fillers:
            filler.close()


@pytest.fixture(scope="module")
def silent() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def alive() -> Iterator[Scripted]:
    body = (
        b'{"id":"u","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Lima"},'
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}'
    )

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(answer(body, "content-type: application/json"))
            await peer.drain()

    with scripted_upstream() as scripted:
        scripted.set(script)
        yield scripted


@pytest.fixture(scope="module")
def gateway(
    black_hole: str, silent: Scripted, alive: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    with socket.socket() as refuser:
        refuser.bind(("127.0.0.1", 0))  # bound and not listening: it refuses, and nobody else gets its port meanwhile
        refusing = f"http://127.0.0.1:{refuser.getsockname()[1]}/v1"
        environ = {"REFUSING": refusing, "BLACK_HOLE": black_hole, "SILENT": silent.url, "ALIVE": alive.url}
        with running_gateway(CONFIG, environ, tmp_path_factory.mktemp("gateway")) as gateway:
            yield gateway
    assert asyncio.run(problems(gateway.store)) == ()


@pytest.fixture(autouse=True)
def says_nothing(silent: Scripted) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.left()

    silent.set(script)


def account(gateway: RunningGateway) -> tuple[int, int]:
    """Balance and held, in nanocredits."""
    with contextlib.closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
        sql = "SELECT balance_nano, held_nano FROM accounts WHERE name = 'tests'"
        balance, held = connection.execute(sql).fetchone()
        return int(balance), int(held)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("upstream", UNREACHABLE)
def test_f01_nobody_else_is_there(gateway: RunningGateway, upstream: str, stream: bool) -> None:
    """Fails on a version that settles an outcome without usage as if something had been generated."""
    balance, _ = account(gateway)
    labels = {"upstream": upstream, "kind": "timeout" if upstream == "black_hole" else "connect"}
    before = metric(gateway, "xrouter_upstream_errors_total", **labels)
    reply = chat(gateway, f"{upstream}/alone", "Peru?", stream=stream)
    assert reply.status_code in (502, 503, 504)
    assert reply.json()["error"]["metadata"]["error_type"] in ("provider_unavailable", "timeout")
    assert "127.0.0.1" not in reply.text
    assert "no-such-host" not in reply.text
    assert record_of(gateway, reply)["outcome"] == "upstream_error"
    assert metric(gateway, "xrouter_upstream_errors_total", **labels) == before + 1
    until(lambda: account(gateway) == (balance, 0), timeout_s=10)  # the hold is void


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("upstream", [*UNREACHABLE, "all"])
def test_f01_all_are_served_while_one_lives(gateway: RunningGateway, upstream: str, stream: bool) -> None:
    """Fails on a version whose `_try_targets` ends at the first error."""
    for _ in range(3):
        reply = chat(gateway, f"{upstream}/first", "Peru?", stream=stream)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-xrouter-upstream"] == "alive"
        assert (read_stream(reply).text if stream else reply.json()["choices"][0]["message"]["content"]) == "Lima"
        *failed, served = record_of(gateway, reply)["attempts"]
        assert [attempt["upstream"] for attempt in failed] == ([upstream] if upstream != "all" else list(UNREACHABLE))
        assert {attempt["status"] for attempt in failed} == {0}, "nothing came"
        assert (served["upstream"], served["status"], served["reason"]) == ("alive", 200, "fallback")
        for attempt in failed:  # the matrix's goal is the time-out itself; ten times that is for a busy machine
            assert attempt["ms"] < CONNECT_S * 10_000


def test_f01_many_at_a_time(gateway: RunningGateway) -> None:
    """None of them is lost in the crowd, whatever the retry budget says: a first fallback costs nothing of it."""
    replies: list[int] = []

    def ask() -> None:
        replies.append(chat(gateway, "refusing/first", "Peru?").status_code)

    clients = [threading.Thread(target=ask) for _ in range(40)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert replies == [200] * 40


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_f02_no_first_byte(gateway: RunningGateway, silent: Scripted, stream: bool) -> None:
    """Fails on a version that waits for the head without `first_byte_s`: the client's own time-out ends the test."""
    balance, _ = account(gateway)
    began = time.monotonic()
    reply = chat(gateway, "silent/alone", "Peru?", stream=stream)
    assert time.monotonic() - began >= FIRST_BYTE_S
    assert reply.status_code == 504
    assert reply.json()["error"]["type"] == "upstream_timeout"
    assert len(silent.requests) == 1, "a call that the upstream may have begun is not sent again by itself"
    until(lambda: account(gateway) == (balance, 0), timeout_s=10)


def test_f02_another_target_serves(gateway: RunningGateway, silent: Scripted) -> None:
    reply = chat(gateway, "silent/first", "Peru?")
    assert reply.headers["x-xrouter-upstream"] == "alive"
    assert len(silent.requests) == 1


def test_f02_nothing_is_tried_once_the_client_has_a_byte(
    gateway: RunningGateway, silent: Scripted, alive: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if that is a comment. Fails on a version that does not look at `started` before the next target."""
    monkeypatch.setattr(keepalive, "INTERVAL_S", 0.2)
    balance, _ = account(gateway)
    asked = len(alive.requests)
    stream = read_stream(chat(gateway, "silent/first", "Peru?", stream=True))
    assert stream.comments
    assert stream.error is not None
    assert (stream.error["code"], stream.finish) == (504, ["error"])
    assert len(alive.requests) == asked
    until(lambda: account(gateway) == (balance, 0), timeout_s=10)

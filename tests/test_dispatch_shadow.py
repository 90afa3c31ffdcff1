"""Shadow copies: a second upstream gets the call as well, and no client ever waits or pays for that."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.gateway import RunningGateway, running_gateway
from kit.hostile import Peer, Script, answer
from kit.money import problems
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, chat_stream, metric, record_of, until

from xrouter.dispatch.shadow import MOST_SHADOWS

CONFIG = """
upstreams:
  main: {provider: openai, base_url: "${MAIN}", concurrency: 100}
  tried: {provider: openai, base_url: "${TRIED}", concurrency: 1, timeouts: {connect_s: 5, first_byte_s: 30}}
  wide: {provider: openai, base_url: "${TRIED}", concurrency: 1000, timeouts: {connect_s: 5, first_byte_s: 30}}
models:
  copied/chat:
    price: {input: "1", output: "2"}
    routes: [{upstream: main, model: m}, {upstream: tried, model: t, shadow: 100}]
  wide/chat: {price: free, routes: [{upstream: main, model: m}, {upstream: wide, model: t, shadow: 100}]}
  tried/chat: {price: free, routes: [{upstream: tried, model: t}]}
filters:
  - auth: {}
  - body: {}
  - routing: {retries: 0, breaker: {failures: 2, open_s: 60}}
  - token_count: {}
  - quota: {}
"""


@pytest.fixture(scope="module")
def main() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def tried() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture
def gateway(main: Scripted, tried: Scripted, tmp_path: Path) -> Iterator[RunningGateway]:
    main.set(says("Lima"))
    with running_gateway(CONFIG, {"MAIN": main.url, "TRIED": tried.url}, tmp_path) as gateway:
        yield gateway
    assert asyncio.run(problems(gateway.store)) == ()
    until(lambda: tried.open == 0, timeout_s=10)  # a drain ends what is still under way


def whole(text: str) -> bytes:
    message = f'{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}'
    usage = '"usage":{"prompt_tokens":2,"completion_tokens":1}'
    body = f'{{"id":"u","model":"m","choices":[{message}],{usage}}}'.encode()
    return answer(body, "content-type: application/json")


def says(text: str) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(whole(text))
            await peer.drain()

    return script


def failing(status: str) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(answer(b'{"error": {"message": "no"}}', "content-type: application/json", status=status))
            await peer.drain()

    return script


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.left()


def copies(gateway: RunningGateway, result: str, upstream: str = "tried") -> float:
    return metric(gateway, "xrouter_shadow_total", upstream=upstream, result=result)


def charged(gateway: RunningGateway) -> int:
    with contextlib.closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
        return int(connection.execute("SELECT coalesce(sum(charged_nano), 0) FROM generations").fetchone()[0])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_copy_is_sent_and_its_answer_seen_by_nobody(tried: Scripted, gateway: RunningGateway, stream: bool) -> None:
    tried.set(says("Quito"))
    reply = chat(gateway, "copied/chat", "Peru?", stream=stream)
    assert "Lima" in reply.text
    assert "Quito" not in reply.text
    assert reply.headers["x-xrouter-upstream"] == "main"
    until(lambda: copies(gateway, "complete") == 1, timeout_s=10)
    assert b"Peru?" in tried.requests[0]
    assert b'"model":"t"' in tried.requests[0]
    record = record_of(gateway, reply)
    assert record["upstream"] == "main"
    assert "attempts" not in record, "there was one"
    until(lambda: charged(gateway) == 4 * 10**6, timeout_s=10)  # two tokens in, one out: of the answer that was given


@pytest.mark.parametrize("script", [silent, failing("500 No")], ids=["silent", "failing"])
def test_a_bad_shadow_is_no_clients_business(tried: Scripted, gateway: RunningGateway, script: Script) -> None:
    """Fails if the copy is awaited: the client would wait for the silent one. Nor does it count against its health."""
    tried.set(script)
    for _ in range(4):
        assert chat_stream(gateway, "copied/chat", "Peru?").text == "Lima"
    if script is not silent:
        until(lambda: copies(gateway, "failed") + copies(gateway, "dropped") == 4, timeout_s=10)
        assert copies(gateway, "failed") >= 1
    assert metric(gateway, "xrouter_upstream_ejected", upstream="tried", model="t") == 0


def test_a_copy_gives_its_place_to_a_client(tried: Scripted, gateway: RunningGateway) -> None:
    """`tried` takes one call at a time. Fails (by a time-out) if a shadow keeps its place until its end."""
    arrived = threading.Event()

    async def script(peer: Peer) -> None:
        request = await peer.request()
        if b"Peru?" in request:
            arrived.set()
            await peer.left()
        else:
            peer.send(whole("Quito"))
            await peer.drain()

    tried.set(script)
    assert chat(gateway, "copied/chat", "Peru?").status_code == 200
    assert arrived.wait(10)
    assert chat(gateway, "copied/chat", "Peru?").status_code == 200, "its copy finds no place"
    until(lambda: copies(gateway, "dropped") == 1, timeout_s=10)
    direct = chat(gateway, "tried/chat", "Ecuador?")
    assert direct.json()["choices"][0]["message"]["content"] == "Quito"
    assert copies(gateway, "cut_short") == 1
    assert metric(gateway, "xrouter_upstream_calls", upstream="tried", state="active") == 0


def test_there_are_only_so_many(tried: Scripted, gateway: RunningGateway) -> None:
    """Fails if the number of tasks is not looked at."""
    tried.set(silent)
    for _ in range(MOST_SHADOWS + 5):
        assert chat(gateway, "wide/chat", "Peru?").status_code == 200
    until(lambda: len(tried.requests) == MOST_SHADOWS, timeout_s=10)
    assert copies(gateway, "dropped", "wide") == 5


def test_a_reload_ends_those_of_the_old_configuration(tried: Scripted, gateway: RunningGateway) -> None:
    tried.set(silent)
    assert chat(gateway, "wide/chat", "Peru?").status_code == 200
    until(lambda: len(tried.requests) == 1, timeout_s=10)
    gateway.call(gateway.app.reload(gateway.app.settings))
    until(lambda: tried.open == 0, timeout_s=10)

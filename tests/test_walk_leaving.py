"""Clients that leave, and streams that are quiet: the upstream call ends within a second, everything is given back."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.hostile import Peer, Script
from kit.raw_client import RawClient
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, chat_stream, metric, open_chat, record_of, until, user

from xrouter import keepalive
from xrouter.wire import encode_json

CONFIG = (
    """
upstreams:
  http1: {provider: openai, base_url: "${URL}", concurrency: 1, queue_s: 20, timeouts: {first_byte_s: 20}}
  httpx2: {provider: openai, base_url: "${URL}", engine: httpx2, concurrency: 1, queue_s: 20, timeouts: {first_byte_s: 20}}
models:
  http1/chat: {price: free, routes: [{upstream: http1, model: m}]}
  httpx2/chat: {price: free, routes: [{upstream: httpx2, model: m}]}
"""
    + CHAIN
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
WORD = b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.left()


async def one_word(peer: Peer) -> None:
    await peer.request()
    peer.send(HEAD + WORD)
    await peer.left()


async def many_words(peer: Peer) -> None:
    await peer.request()
    peer.send(HEAD)
    while True:
        peer.send(WORD)
        await peer.drain()
        await asyncio.sleep(0.01)


async def whole_never_ends(peer: Peer) -> None:
    await peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    await peer.left()


async def busy(peer: Peer) -> None:
    await peer.request()
    peer.send(b"HTTP/1.1 429 No\r\nretry-after: 30\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    await peer.left()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def gateway(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(CONFIG, {"URL": upstream.url}, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def calls(gateway: RunningGateway, upstream: str, state: str) -> float:
    return metric(gateway, "xrouter_upstream_calls", upstream=upstream, state=state)


def raw_request(gateway: RunningGateway, body: dict[str, Any], request_id: str) -> RawClient:
    """A request sent on a connection of its own, whose end is the test's to choose."""
    client = RawClient((gateway.server.host, gateway.server.port))
    data = encode_json(body)
    client.send(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"X-Request-Id: {request_id}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return client


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("engine", ["http1", "httpx2"])
@pytest.mark.parametrize(
    ("script", "stream"),
    [
        pytest.param(silent, False, id="before-the-head"),
        pytest.param(silent, True, id="before-the-first-byte"),
        pytest.param(whole_never_ends, False, id="in-a-whole-answer"),
        pytest.param(one_word, True, id="in-a-quiet-stream"),
        pytest.param(many_words, True, id="in-a-busy-stream"),
        pytest.param(busy, True, id="while-waiting-to-retry"),
    ],
)
def test_f08_the_call_ends_with_its_client(
    upstream: Scripted, gateway: RunningGateway, script: Script, stream: bool, engine: str, how: str
) -> None:
    upstream.set(script)
    name = f"{script.__name__}-{stream}-{engine}-{how}"
    client = raw_request(gateway, {"model": f"{engine}/chat", "messages": user("?"), "stream": stream}, name)
    until(lambda: len(upstream.requests) == 1)
    if script in (one_word, many_words):
        while b"word" not in client.read(4096):
            pass
    elif script is busy:
        until(lambda: calls(gateway, engine, "active") == 0)
    client.reset() if how == "reset" else client.close()
    assert until(lambda: calls(gateway, engine, "active") == 0) < 1
    if script is not busy:
        assert until(lambda: upstream.open == 0) < 1
    record = gateway.log.request(name, timeout_s=1)
    assert record["status"] == 499
    assert record["outcome"] == "client_abort"
    assert ("output_tokens" in record) == (script in (one_word, many_words)), "what was delivered is counted, no more"
    assert until(lambda: metric(gateway, "xrouter_in_flight") == 0) < 1
    assert metric(
        gateway, "xrouter_requests_total", endpoint="chat", model=f"{engine}/chat", upstream=engine, status="499"
    )


@pytest.mark.parametrize("engine", ["http1", "httpx2"])
def test_f08_in_the_queue_for_a_place(upstream: Scripted, gateway: RunningGateway, engine: str) -> None:
    upstream.set(silent)
    body = {"model": f"{engine}/chat", "messages": user("?"), "stream": True}
    first = raw_request(gateway, body, f"first-{engine}")
    until(lambda: calls(gateway, engine, "active") == 1)
    second = raw_request(gateway, body, f"second-{engine}")
    until(lambda: calls(gateway, engine, "waiting") == 1)
    second.close()
    assert until(lambda: calls(gateway, engine, "waiting") == 0) < 1
    record = gateway.log.request(f"second-{engine}")
    assert record["status"] == 499
    assert calls(gateway, engine, "active") == 1
    first.close()
    assert until(lambda: calls(gateway, engine, "active") == 0) < 1
    assert len(upstream.requests) == 1


def test_f08_while_the_body_is_coming(upstream: Scripted, gateway: RunningGateway) -> None:
    upstream.set(silent)
    client = RawClient((gateway.server.host, gateway.server.port))
    client.send(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
        "X-Request-Id: half-a-body\r\nContent-Length: 1000\r\n\r\n{".encode()
    )
    until(lambda: metric(gateway, "xrouter_in_flight") == 1)
    client.close()
    record = gateway.log.request("half-a-body", timeout_s=1)
    assert record["status"] == 499
    assert upstream.requests == []


def test_f27_a_slow_reader_pauses_the_upstream(upstream: Scripted, gateway: RunningGateway) -> None:
    """What a client does not take is not read from the upstream either: memory stays bounded."""
    sent = 0

    async def floods(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        peer.send(HEAD)
        while True:
            peer.send(WORD * 100)
            sent += len(WORD) * 100
            await peer.drain()

    upstream.set(floods)
    client = RawClient((gateway.server.host, gateway.server.port), receive_buffer=4096)
    body = encode_json({"model": "http1/chat", "messages": user("?"), "stream": True})
    client.send(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    last = -1
    while sent != last:  # until it stands still
        last = sent
        time.sleep(0.2)
    assert last < 16_000_000, "the kernel's buffers of both sides, not an endless stream"
    client.close()
    assert until(lambda: calls(gateway, "http1", "active") == 0) < 1


def test_a_quiet_stream_is_kept_open_by_comments(
    upstream: Scripted, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepalive, "INTERVAL_S", 0.05)

    async def slow(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.3)
        peer.send(HEAD + WORD)
        await peer.drain()
        await asyncio.sleep(0.3)
        peer.send(LAST)
        await peer.drain()

    upstream.set(slow)
    stream = chat_stream(gateway, "http1/chat", "?")
    assert 4 <= len(stream.comments) <= 16
    assert set(stream.comments) == {"OPENROUTER PROCESSING"}
    assert stream.text == "word "
    assert stream.done
    first_word = stream.body.index(b"word")
    assert b": OPENROUTER" in stream.body[:first_word]
    assert b": OPENROUTER" in stream.body[first_word:]
    assert stream.headers["x-xrouter-upstream"] == "http1"


def test_after_a_comment_an_error_is_an_event(
    upstream: Scripted, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepalive, "INTERVAL_S", 0.05)

    async def fails_late(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.2)
        peer.send(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        await peer.drain()

    upstream.set(fails_late)
    stream = chat_stream(gateway, "http1/chat", "?")
    assert stream.status == 200
    assert stream.comments
    assert stream.finish == ["error"]
    assert stream.error is not None
    assert stream.error["code"] == 502
    record = record_of(gateway, stream)
    assert record["outcome"] == "upstream_error"
    assert "output_tokens" not in record


def test_a_whole_answer_gets_no_comments(
    upstream: Scripted, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepalive, "INTERVAL_S", 0.02)

    async def slow(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.15)
        body = b'{"id":"u","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await peer.drain()

    upstream.set(slow)
    assert chat(gateway, "http1/chat", "?").json()["choices"][0]["message"]["content"] == "x"


@pytest.mark.parametrize("script", [one_word, silent])
def test_f21_a_stop_ends_streams_with_an_event(upstream: Scripted, tmp_path: Path, script: Script) -> None:
    upstream.set(script)
    with running_gateway(CONFIG, {"URL": upstream.url}, tmp_path, server={"drain_s": 0.2}) as gateway:
        client = raw_request(gateway, {"model": "http1/chat", "messages": user("?"), "stream": True}, "stopped")
        until(lambda: len(upstream.requests) == 1)
        if script is one_word:
            while b"word" not in client.read(4096):
                pass
        gateway.server.server.stop()
        rest = client.rest()
    record = gateway.log.request("stopped")
    assert record["outcome"] == "shutdown"
    assert b"shutting_down" in rest
    if script is one_word:
        assert b'"finish_reason":"error"' in rest
        assert record["status"] == 200
    else:
        assert rest.startswith(b"HTTP/1.1 503 ")
        assert record["status"] == 503
    client.close()
    assert until(lambda: upstream.open == 0) < 1


def test_a_connection_is_used_again(gateway: RunningGateway, upstream: Scripted) -> None:
    """Reading an answer to its end keeps its connection, whole or streamed."""
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            data = WORD + LAST
            peer.send(stream + b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
            await peer.drain()

    upstream.set(script)
    for _ in range(5):
        assert chat_stream(gateway, "http1/chat", "?").done
    assert upstream.connections == 1
    assert len(upstream.requests) == 5


def test_a_half_closed_client_is_a_gone_one(upstream: Scripted, gateway: RunningGateway) -> None:
    """The end of a client's bytes while it waits is taken as its leaving: that is what a closed browser looks like."""
    upstream.set(one_word)
    client = raw_request(gateway, {"model": "http1/chat", "messages": user("?"), "stream": True}, "half-closed")
    while b"word" not in client.read(4096):
        pass
    client.socket.shutdown(socket.SHUT_WR)
    assert until(lambda: calls(gateway, "http1", "active") == 0) < 1
    client.close()
    assert gateway.log.request("half-closed")["status"] == 499


def test_open_chat_closes(upstream: Scripted, gateway: RunningGateway) -> None:
    """An HTTP client that leaves a stream's block early is a client that leaves."""
    upstream.set(one_word)
    with open_chat(gateway, "http1/chat", "?") as response:
        pieces = response.iter_bytes()  # kept: one that is dropped closes the connection by itself
        next(pieces)
    assert until(lambda: calls(gateway, "http1", "active") == 0) < 1

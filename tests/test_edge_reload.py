"""Another configuration for a running gateway: requests under way end under the old one, new ones begin under the new."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kit.filter_source import filter_source
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.hostile import Peer, answer, answering
from kit.scripted import Scripted, scripted_upstream
from kit.serving import command
from kit.walk import Stream, chat, metric, open_chat, until

from xrouter.config.load import load
from xrouter.config.settings import Settings
from xrouter.wire import decode_json

OLD = (
    """
upstreams:
  old: {provider: openai, base_url: "${URL}"}
models:
  a/b: {price: free, routes: [{upstream: old, model: m}]}
"""
    + CHAIN
)
NEW = OLD.replace("old", "new").replace("a/b", "a/c")
WORD = b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
WHOLE = b'{"id":"u","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'


@pytest.fixture
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        scripted.set(answering(answer(WHOLE, "content-type: application/json")))
        yield scripted


@pytest.fixture
def gateway(upstream: Scripted, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(OLD, {"URL": upstream.url}, tmp_path) as gateway:
        yield gateway


def loaded(gateway: RunningGateway, upstream: Scripted, folder: Path, yaml: str) -> Settings:
    file = folder / "another.yaml"
    file.write_text(f"store: {gateway.store}\n{yaml}")
    return replace(load(file, {"URL": upstream.url}), server=gateway.app.settings.server)


def test_f19_a_stream_under_way_ends_under_the_old_one(
    upstream: Scripted, gateway: RunningGateway, tmp_path: Path
) -> None:
    go_on = threading.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + WORD)
        await peer.drain()
        await asyncio.to_thread(go_on.wait, 10)
        peer.send(WORD + LAST)
        await peer.drain()

    upstream.set(script)
    with open_chat(gateway, "a/b", "x") as response:
        pieces = response.iter_bytes()
        body = next(pieces)
        gateway.call(gateway.app.reload(loaded(gateway, upstream, tmp_path, NEW)))
        assert chat(gateway, "a/b", "x").status_code == 404, "new requests know the new models only"
        assert metric(gateway, "xrouter_upstream_calls", upstream="new", state="active") == 0
        go_on.set()
        body += b"".join(pieces)
    stream = Stream(response.status_code, response.headers, body)
    assert stream.text == "word word "
    assert stream.done
    upstream.set(answering(answer(WHOLE, "content-type: application/json")))
    answered = chat(gateway, "a/c", "x")
    assert answered.headers["x-xrouter-upstream"] == "new"
    assert answered.json()["choices"][0]["message"]["content"] == "x"


def test_f19_the_old_connections_are_closed(upstream: Scripted, gateway: RunningGateway, tmp_path: Path) -> None:
    assert chat(gateway, "a/b", "x").status_code == 200
    assert upstream.open == 1, "kept alive"
    gateway.call(gateway.app.reload(loaded(gateway, upstream, tmp_path, NEW)))
    assert until(lambda: upstream.open == 0) < 2


def test_f19_one_that_cannot_start_changes_nothing(upstream: Scripted, gateway: RunningGateway, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "never_starts.py").write_text(
        filter_source("NeverStarts", on_start="raise OSError('no such file')")
    )
    broken = loaded(gateway, upstream, tmp_path, NEW + "  - plugins.never_starts:NeverStarts: {}\n")
    with pytest.raises(OSError, match="no such file"):
        gateway.call(gateway.app.reload(broken))
    assert chat(gateway, "a/b", "x").status_code == 200
    assert gateway.app.settings.models.keys() == {"a/b"}
    assert metric(gateway, "xrouter_upstream_connections_opened_total", upstream="old") == 1


def test_f19_a_storm_of_reloads_loses_no_request(upstream: Scripted, gateway: RunningGateway, tmp_path: Path) -> None:
    both = OLD.replace("models:", "models:\n  a/c: {price: free, routes: [{upstream: old, model: m}]}")
    settings = [loaded(gateway, upstream, tmp_path, yaml) for yaml in (OLD, both)]
    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            statuses.append(chat(gateway, "a/b", "x").status_code)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    reloads = 0
    while reloads < 20 or len(statuses) <= 20:
        gateway.call(gateway.app.reload(settings[reloads % 2]))
        reloads += 1
        assert reloads < 1_000, "nobody is answered"
    stop.set()
    for client in clients:
        client.join()
    assert set(statuses) == {200}
    assert until(lambda: upstream.open <= 3) < 2, "one pool is left"


def test_f19_an_upstream_whose_settings_stay_keeps_its_connections(
    upstream: Scripted, gateway: RunningGateway, tmp_path: Path
) -> None:
    """Fails where each configuration builds its own upstreams: the call after the reload makes a second connection."""
    both = OLD.replace("models:", "models:\n  a/c: {price: free, routes: [{upstream: old, model: m}]}")
    assert chat(gateway, "a/b", "x").status_code == 200
    gateway.call(gateway.app.reload(loaded(gateway, upstream, tmp_path, both)))
    assert chat(gateway, "a/c", "x").status_code == 200
    assert upstream.connections == 1
    slower = both.replace('"${URL}"', '"${URL}", queue_s: 7')
    gateway.call(gateway.app.reload(loaded(gateway, upstream, tmp_path, slower)))
    until(lambda: upstream.open == 0, timeout_s=10)  # nobody uses the first one's any more
    assert chat(gateway, "a/c", "x").status_code == 200
    assert upstream.connections == 2


def test_f19_a_token_goes_on_to_be_used(upstream: Scripted, tmp_path: Path) -> None:
    """Fails where each configuration builds its own upstreams: every reload asks the provider for a token."""
    giga = OLD.replace(
        'provider: openai, base_url: "${URL}"',
        'provider: gigachat, base_url: "${URL}", auth_url: "${URL}/oauth", credentials: Zm9vOmJhcg==',
    )
    both = giga.replace("models:", "models:\n  a/c: {price: free, routes: [{upstream: old, model: m}]}")

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            token = b"/oauth" in request.split(b"\r\n")[0]
            body = b'{"access_token":"t","expires_at":4102444800000}' if token else WHOLE
            peer.send(answer(body, "content-type: application/json"))
            await peer.drain()

    upstream.set(script)
    with running_gateway(giga, {"URL": upstream.url}, tmp_path) as gateway:
        for yaml in (both, giga, both):
            assert chat(gateway, "a/b", "x").status_code == 200
            gateway.call(gateway.app.reload(loaded(gateway, upstream, tmp_path, yaml)))
    assert [b"/oauth" in request.split(b"\r\n")[0] for request in upstream.requests].count(True) == 1


def test_f32_a_stream_of_a_key_that_is_revoked_ends_at_its_end(
    upstream: Scripted, gateway: RunningGateway, tmp_path: Path
) -> None:
    """Another process revokes it, and there is no Redis: new requests are refused soon, the stream goes on.

    Fails where the key ring does not follow the store: the key is accepted for as long as the gateway runs.
    """
    go_on = threading.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + WORD)
        await peer.drain()
        await asyncio.to_thread(go_on.wait, 30)
        peer.send(WORD + LAST)
        await peer.drain()

    upstream.set(script)
    config = str(tmp_path / "xrouter.yaml")
    environ = {"URL": upstream.url}
    with open_chat(gateway, "a/b", "x") as response:
        pieces = response.iter_bytes()
        body = next(pieces)
        (key,) = decode_json(command(environ, "keys", "list", "-c", config, "--json").stdout)
        assert command(environ, "keys", "revoke", "-c", config, key["hash"]).returncode == 0
        until(lambda: gateway.client.get("/v1/models").status_code == 401, timeout_s=10)
        go_on.set()
        body += b"".join(pieces)
    stream = Stream(response.status_code, response.headers, body)
    assert stream.text == "word word "
    assert stream.done

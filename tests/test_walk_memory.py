"""F06: what a stream may cost in memory, whatever the upstream sends and however slowly the client reads: 2 MB.

The gateway is a process of its own, and its peak is the kernel's figure (`VmHWM` of proc(5)).
"""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.gateway import new_key
from kit.hostile import Peer
from kit.scripted import Scripted, scripted_upstream
from kit.serving import Serving, serving

from xrouter.wire import encode_json

STREAMS = 16
STREAM_MB = 2
CONFIG = """
store: sqlite:///{store}
server: {{port: 0}}
upstreams:
  local: {{provider: openai, base_url: "${{URL}}", concurrency: 100}}
  giga: {{provider: gigachat, base_url: "${{URL}}", access_token: token, concurrency: 100}}
  yandex: {{provider: yandexgpt, base_url: "${{URL}}", folder: b1gfolder, api_key: AQVN-key, concurrency: 100}}
models:
  a/local: {{price: free, routes: [{{upstream: local, model: m}}]}}
  a/giga: {{price: free, routes: [{{upstream: giga, model: GigaChat-2}}]}}
  a/native: {{price: free, routes: [{{upstream: yandex, model: yandexgpt, surface: native}}]}}
  a/compatible: {{price: free, routes: [{{upstream: yandex, model: yandexgpt, surface: openai}}]}}
filters: [auth, body, {{routing: {{retries: 0, breaker: {{failures: 100000}}, outlier: null}}}}, token_count]
"""
WORD = b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def gateway(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, str]]:
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "xrouter.yaml"
    config.write_text(CONFIG.format(store=folder / "gateway.db"))
    key = new_key(f"sqlite:///{folder / 'gateway.db'}")
    with serving(config, {"URL": upstream.url}) as running:
        yield running, key


class Peak:
    """The most that a process has had in memory since this was made, in MB, and what it had then."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is what there is now
        self.before_mb = self._read("VmRSS")

    @property
    def grown_mb(self) -> float:
        return self._read("VmHWM") - self.before_mb

    def _read(self, name: str) -> float:
        found = re.search(rf"^{name}:\s+(\d+) kB$", self._status.read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024


async def ask(gateway: Serving, key: str, model: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024 * 1024)
    body = encode_json({"model": model, "messages": [{"role": "user", "content": "x"}], "stream": True})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}"
    )
    writer.write(f"{head}\r\nconnection: close\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


async def read_on(gateway: Serving, key: str, model: str) -> bytes:
    """The end of a stream that is read as fast as it comes."""
    reader, writer = await ask(gateway, key, model)
    last = b""
    while data := await reader.read(65536):
        last = (last + data)[-4096:]
    writer.close()
    return last


async def warm(upstream: Scripted, gateway: Serving, key: str, model: str) -> None:
    """As many good streams as there will be bad ones, so that what is grown later is theirs."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % b"text/event-stream" + WORD + b"data: [DONE]\n\n")
        await peer.drain()

    await asyncio.to_thread(upstream.set, script)
    await asyncio.gather(*(read_on(gateway, key, model) for _ in range(STREAMS)))


@pytest.mark.parametrize("model", ["a/local", "a/giga", "a/native", "a/compatible"])
async def test_f06_a_line_of_64_mb(upstream: Scripted, gateway: tuple[Serving, str], model: str) -> None:
    """Fails on a version that keeps lines of up to 8 MB."""

    async def script(peer: Peer) -> None:
        await peer.request()
        content_type = b"application/json" if model == "a/native" else b"text/event-stream"
        peer.send(HEAD % content_type + (b'{"result":"' if model == "a/native" else b'data: {"id":"'))
        for _ in range(64):
            peer.send(b"x" * 1024 * 1024)
            await peer.drain()

    running, key = gateway
    await warm(upstream, running, key, model)
    await asyncio.to_thread(upstream.set, script)
    peak = Peak(running.process.pid)
    ends = await asyncio.gather(*(read_on(running, key, model) for _ in range(STREAMS)))
    assert peak.grown_mb < STREAMS * STREAM_MB
    for end in ends:
        assert b"upstream_protocol_error" in end
    assert running.process.poll() is None


async def test_f06_f27_an_endless_stream_for_a_client_that_reads_nothing(
    upstream: Scripted, gateway: tuple[Serving, str]
) -> None:
    """The upstream is paused. Fails on a version that parses all that has come at once: 8 MB for each stream."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        peer.send(HEAD % b"text/event-stream")
        while True:
            peer.send(WORD * 512)
            await peer.drain()
            sent += len(WORD) * 512

    running, key = gateway
    await warm(upstream, running, key, "a/local")
    await asyncio.to_thread(upstream.set, script)
    peak = Peak(running.process.pid)
    connections = [await ask(running, key, "a/local") for _ in range(STREAMS)]
    for reader, _ in connections:
        await reader.readuntil(b"word ")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
    stood = -1
    while sent != stood:  # until the upstream has stood still for a second
        stood = sent
        await asyncio.sleep(1)
    assert peak.grown_mb < STREAMS * STREAM_MB
    for _, writer in connections:
        writer.transport.abort()


async def test_f06_an_endless_stream_is_handed_on_and_forgotten(
    upstream: Scripted, gateway: tuple[Serving, str]
) -> None:
    """8 MB of words each. Fails on a version that keeps all events until the end to count their tokens."""
    total = 0

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD % b"text/event-stream")
        for _ in range(total // (len(WORD) * 512)):
            peer.send(WORD * 512)
            await peer.drain()

    running, key = gateway
    await warm(upstream, running, key, "a/local")
    await asyncio.to_thread(upstream.set, script)
    total = 8 * 1024 * 1024
    peak = Peak(running.process.pid)
    ends = await asyncio.gather(*(read_on(running, key, "a/local") for _ in range(4)))
    assert all(b"upstream_protocol_error" in end for end in ends), "it was cut off at its end"
    assert peak.grown_mb < 4 * STREAM_MB

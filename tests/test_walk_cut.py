"""F03: an answer that is reset, or that ends, at any byte, from every provider: an event or 502, and one settlement.

XROUTER_EVERY_BYTE=1 cuts at every byte; otherwise at every 7th, and at each of the last 40.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import pytest
from kit.gateway import RunningGateway, running_gateway
from kit.hostile import Peer, answer
from kit.money import problems
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, metric, read_stream, until

from xrouter.wire import encode_json

IN, OUT = 1_000_000, 2_000_000  # nanocredits a token
STRIDE = 1 if os.environ.get("XROUTER_EVERY_BYTE") else 7
CONFIG = """
upstreams:
  local: {provider: openai, base_url: "${URL}"}
  giga: {provider: gigachat, base_url: "${URL}", auth_url: "${URL}/oauth", credentials: Y2xpZW50OnNlY3JldA==}
  yandex: {provider: yandexgpt, base_url: "${URL}", folder: b1gfolder, api_key: AQVN-key}
models:
  a/local: &paid {price: {input: "1", output: "2"}, max_output: 1000, routes: [{upstream: local, model: m}]}
  a/giga: {<<: *paid, routes: [{upstream: giga, model: GigaChat-2}]}
  a/native: {<<: *paid, routes: [{upstream: yandex, model: yandexgpt, surface: native}]}
  a/compatible: {<<: *paid, routes: [{upstream: yandex, model: yandexgpt, surface: openai}]}
filters:
  - auth: {}
  - body: {}
  - routing: {retries: 0, breaker: {failures: 1000000}, outlier: null}
  - token_count: {}
  - quota: {}
"""
WORDS: Final = ("Лима ", "is the ", "capital.")


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + encode_json(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def openai_stream(**fields: Any) -> bytes:
    usage = {"prompt_tokens": 21, "completion_tokens": 34, "total_tokens": 55}
    base = {"id": "u", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}
    deltas: list[Any] = [
        {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in WORDS
    ]
    end: Any = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return sse(*({**base, **event} for event in (*deltas, end, {"choices": [], "usage": usage})))


def gigachat_stream() -> bytes:
    base = {"created": 1, "model": "GigaChat-2:2.0.28.2", "object": "chat.completion"}
    deltas: list[Any] = [{"choices": [{"delta": {"content": word, "role": "assistant"}, "index": 0}]} for word in WORDS]
    usage = {"prompt_tokens": 21, "completion_tokens": 34, "total_tokens": 55, "precached_prompt_tokens": 0}
    end: Any = {"choices": [{"delta": {"content": ""}, "index": 0, "finish_reason": "stop"}], "usage": usage}
    return sse(*({**base, **event} for event in (*deltas, end)))


def native_stream() -> bytes:
    """Each line holds the whole text so far."""
    lines = []
    for number in range(1, len(WORDS) + 1):
        last = number == len(WORDS)
        status = "ALTERNATIVE_STATUS_FINAL" if last else "ALTERNATIVE_STATUS_PARTIAL"
        message = {"role": "assistant", "text": "".join(WORDS[:number])}
        usage = {"inputTextTokens": "21", "completionTokens": "34", "totalTokens": "55"}
        result = {"alternatives": [{"message": message, "status": status}], "usage": usage, "modelVersion": "1"}
        lines.append(encode_json({"result": result}))
    return b"\n".join(lines) + b"\n"


STREAMS: Final = {
    "a/local": ("text/event-stream", openai_stream()),
    "a/giga": ("text/event-stream", gigachat_stream()),
    "a/native": ("application/json", native_stream()),
    "a/compatible": ("text/event-stream", openai_stream()),
}
TOKEN: Final = answer(b'{"access_token":"t","expires_at":4102444800000}', "content-type: application/json")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def gateway(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(CONFIG, {"URL": upstream.url}, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway
    assert asyncio.run(problems(gateway.store)) == ()


def offsets(length: int) -> list[int]:
    return sorted({*range(0, length + 1, STRIDE), *range(max(0, length - 40), length + 1)})


class Cut:
    """The upstream's script: a stream of which `size` bytes come, then the end or a reset."""

    def __init__(self, content_type: str, body: bytes, how: str, *, framed: bool = False) -> None:
        self.head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n".encode()
        if framed:
            self.head += b"content-length: %d\r\n" % len(body)
        self.body = body
        self.how = how
        self.size = 0

    async def __call__(self, peer: Peer) -> None:
        while b"/oauth " in await peer.request():
            peer.send(TOKEN)
            await peer.drain()
        peer.send(self.head + b"\r\n" + self.body[: self.size])
        await peer.drain()
        if self.how == "reset":
            await asyncio.sleep(0.002)  # or the reset would overtake the bytes before it, in the kernel
            peer.reset()


def receipts(gateway: RunningGateway) -> list[sqlite3.Row]:
    with contextlib.closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT * FROM generations").fetchall()


def open_holds(gateway: RunningGateway) -> int:
    with contextlib.closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
        return int(connection.execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()[0])


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("model", STREAMS)
def test_f03_a_stream_cut_anywhere(upstream: Scripted, gateway: RunningGateway, model: str, how: str) -> None:
    """Fails on a version whose translators take the end of the bytes for the end of the answer: 200 without an event."""
    content_type, body = STREAMS[model]
    script = Cut(content_type, body, how)
    upstream.set(script)
    ends: set[str] = set()
    ids: dict[str, str] = {}
    for script.size in offsets(len(body)):
        reply = chat(gateway, model, "?", stream=True)
        if reply.status_code != 200:
            assert reply.status_code == 502, reply.text
            assert reply.json()["error"]["type"] == "upstream_protocol_error"
            end = "before"
        else:
            stream = read_stream(reply)
            assert "".join(WORDS).startswith(stream.text)
            # A cut that takes only the usage behind the words, and their finish, is told all the same.
            assert stream.finish in (["error"], ["stop", "error"], ["stop"]), script.size
            assert (stream.error is None) == stream.done == (stream.finish == ["stop"])
            end = "whole" if stream.done else "event"
            if end == "whole":
                assert stream.text == "".join(WORDS)
        ends.add(end)
        ids[reply.headers["x-generation-id"]] = end
    assert ends == {"before", "event", "whole"}
    until(lambda: open_holds(gateway) == 0, timeout_s=20)
    settled = [row for row in receipts(gateway) if row["id"] in ids]
    assert len(settled) == len(ids), "one receipt each"
    for row in settled:
        cost = (row["input_tokens"] or 0) * IN + (row["output_tokens"] or 0) * OUT
        assert row["charged_nano"] == (0 if ids[row["id"]] == "before" else cost), dict(row)
        if ids[row["id"]] == "whole" and row["usage_source"] == "reported":
            assert (row["input_tokens"], row["output_tokens"]) == (21, 34)
    assert metric(gateway, "xrouter_ledger_imbalance") == 0


@pytest.mark.parametrize("how", ["end", "reset"])
def test_f03_a_whole_answer_cut_anywhere_is_502(upstream: Scripted, gateway: RunningGateway, how: str) -> None:
    """Fails on a version that believes a body shorter than its Content-Length: without its last byte it is JSON as well."""
    message = {"role": "assistant", "content": "Лима"}
    usage = {"prompt_tokens": 21, "completion_tokens": 34, "total_tokens": 55}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = (
        encode_json({"id": "u", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}) + b"\n"
    )
    script = Cut("application/json", body, how, framed=True)
    upstream.set(script)
    before = len(receipts(gateway))
    sizes = offsets(len(body) - 1)
    for script.size in sizes:
        reply = chat(gateway, "a/local", "?")
        assert reply.status_code == 502
        assert reply.json()["error"]["type"] == "upstream_protocol_error"
    until(lambda: len(receipts(gateway)) == before + len(sizes), timeout_s=20)
    assert {row["charged_nano"] for row in receipts(gateway)[before:]} == {0}

"""What an upstream can do wrong, through the whole gateway (fault matrix F01 to F07 and F36).

Each fault is a 502 before the first byte, and one error event after it; the reason is in the log and the metric, and the
key that the upstream was sent comes back nowhere.
"""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.hostile import Peer, Script, answer, answering, chunked
from kit.scripted import Scripted, scripted_upstream
from kit.walk import Stream, chat, chat_stream, metric, open_chat, read_stream, record_of

KEY = "sk-the-gateways-own-key-4f9a1c"
CONFIG = """
upstreams:
  bad:
    provider: openai
    base_url: ${BAD_URL}
    api_key: ${BAD_KEY}
    timeouts: {connect_s: 1, first_byte_s: 0.4, idle_s: 0.4, total_s: 3}
models:
  bad/chat: {price: free, routes: [{upstream: bad, model: m}]}
""" + CHAIN.replace("retries: 2, fallback: true", "retries: 0, breaker: {failures: 1000}")
JSON = "content-type: application/json"
SSE = "content-type: text/event-stream"
HTML = b"<!doctype html><html><body><h1>502 Bad Gateway</h1>nginx</body></html>"


def chunk(text: str, finish: str | None = None) -> bytes:
    reason = f'"{finish}"' if finish else "null"
    return (
        'data: {"id":"up-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
        f'"delta":{{"content":"{text}"}},"finish_reason":{reason}}}]}}\n\n'
    ).encode()


def sse_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def frame(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def gateway(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    environ = {"BAD_URL": upstream.url, "BAD_KEY": KEY}
    with running_gateway(CONFIG, environ, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


async def closes(peer: Peer) -> None:
    await peer.request()
    peer.close()


async def resets(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.left()


async def echoes(peer: Peer) -> None:
    """Tells in every place what it was sent."""
    request = await peer.request()
    key = request.split(b"Bearer ")[1].split(b"\r\n")[0].decode() if b"Bearer " in request else KEY
    body = f'{{"error": {{"message": "bad key {key} ({key[:10]}…)", "code": "x", "param": "{key}"}}}}'
    peer.send(answer(body.encode(), JSON, f"x-your-key: {key}", f"www-authenticate: {key}", status="400 Bad Request"))


async def short(peer: Peer) -> None:
    await peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n" + b'{"choices": [')
    await peer.drain()
    peer.close()


FAULTS: dict[str, tuple[Script, int, str, str]] = {
    "closes": (closes, 502, "upstream_protocol_error", "protocol"),
    "resets": (resets, 502, "upstream_protocol_error", "protocol"),
    "short": (short, 502, "upstream_protocol_error", "protocol"),
    "silent": (silent, 504, "upstream_timeout", "timeout"),
    "garbage": (answering(b"\x16\x03\x01 this is no HTTP\r\n\r\n"), 502, "upstream_protocol_error", "protocol"),
    "html-200": (answering(answer(HTML, "content-type: text/html")), 502, "upstream_protocol_error", "protocol"),
    "html-as-json": (answering(answer(HTML, JSON)), 502, "upstream_protocol_error", "protocol"),
    "html-502": (answering(answer(HTML, "content-type: text/html", status="502 Bad")), 502, "upstream_error", "status"),
    "html-403": (
        answering(answer(HTML, "content-type: text/html", status="403 No")), 502, "upstream_protocol_error", "protocol"
    ),
    "redirect": (
        answering(answer(b"", "location: http://127.0.0.1:1/", status="302 Found")),
        502, "upstream_protocol_error", "protocol",
    ),
    "no-content-type": (answering(answer(b'{"choices": []}')), 502, "upstream_protocol_error", "protocol"),
    "empty": (answering(answer(b"", JSON)), 502, "upstream_protocol_error", "protocol"),
    "half-json": (answering(answer(b'{"choices": [', JSON)), 502, "upstream_protocol_error", "protocol"),
    "array": (answering(answer(b"[1, 2]", JSON)), 502, "upstream_protocol_error", "protocol"),
    "no-choices": (answering(answer(b'{"id": "x"}', JSON)), 502, "upstream_protocol_error", "protocol"),
    "odd-choices": (answering(answer(b'{"choices": [1, null]}', JSON)), 502, "upstream_protocol_error", "protocol"),
    "deep": (answering(answer(b"[" * 100_000, JSON)), 502, "upstream_protocol_error", "protocol"),
    "not-utf8": (answering(answer(b'{"choices": ["\xff\xfe"]}', JSON)), 502, "upstream_protocol_error", "protocol"),
    "error-200": (answering(answer(b'{"error": {"message": "oops", "code": 500}}', JSON)), 502, "upstream_error", "status"),
    "gzip": (
        answering(answer(b"\x1f\x8b\x08rubbish", JSON, "content-encoding: gzip")), 502, "upstream_protocol_error", "protocol"
    ),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", FAULTS)
def test_f07_a_fault_before_the_first_byte(
    upstream: Scripted, gateway: RunningGateway, fault: str, stream: bool
) -> None:
    script, status, kind, label = FAULTS[fault]
    upstream.set(script)
    before = metric(gateway, "xrouter_upstream_errors_total", upstream="bad", kind=label)
    refused = chat(gateway, "bad/chat", "Привет", stream=stream)
    assert refused.status_code == status, refused.text
    error = refused.json()["error"]
    assert error["code"] == status
    assert error["type"] == kind
    assert refused.headers["content-type"] == "application/json"
    for secret_or_page in ("nginx", "<html", "rubbish", KEY):
        assert secret_or_page not in refused.text
    record = record_of(gateway, refused)
    assert record["status"] == status
    assert record["outcome"] == "upstream_error"
    assert record["detail"]
    assert "input_tokens" not in record, "nothing was generated, so nothing is counted"
    assert metric(gateway, "xrouter_upstream_errors_total", upstream="bad", kind=label) == before + 1


BREAKS: dict[str, bytes] = {
    "cut": b"",
    "half-event": frame(b'data: {"id":"up-1","choices":[{"index":0,"del'),
    "garbage": frame(b"data: \xff\xfe\x00 not JSON\n\n"),
    "html": frame(b"data: " + HTML + b"\n\n"),
    "no-choices": frame(b'data: {"id":"up-1","finish_reason":"none"}\n\n'),
    "broken-framing": b"zz\r\nrubbish",
    "error-object": frame(b'data: {"error":{"message":"GPU on fire, key ' + KEY.encode() + b'","code":500}}\n\n'),
    "ends-early": b"0\r\n\r\n",
}


@pytest.mark.parametrize("name", BREAKS)
def test_f03_a_fault_after_the_first_byte(upstream: Scripted, gateway: RunningGateway, name: str) -> None:
    delivered = threading.Event()  # or the break could come in one piece with the words before it

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(sse_head() + frame(chunk("Добрый")) + frame(chunk(" день")))
        await peer.drain()
        await asyncio.to_thread(delivered.wait, 5)
        peer.send(BREAKS[name])
        await peer.drain()

    upstream.set(script)
    with open_chat(gateway, "bad/chat", "Привет") as response:
        body = b""
        for piece in response.iter_bytes():
            body += piece
            if " день".encode() in body:
                delivered.set()
    stream = Stream(response.status_code, response.headers, body)
    assert stream.text == "Добрый день"
    assert stream.finish == ["error"]
    assert stream.error is not None
    assert stream.error["code"] == 502
    assert stream.events[-1]["choices"][0]["finish_reason"] == "error"
    assert not stream.done
    assert KEY.encode() not in stream.body
    assert b"nginx" not in stream.body
    record = record_of(gateway, stream)
    assert record["status"] == 200
    assert record["outcome"] == "upstream_error"
    assert record["usage_source"] == "counted"
    assert record["output_tokens"] > 0
    assert KEY not in str(record)


def test_f06_a_stream_that_stops_moving(upstream: Scripted, gateway: RunningGateway) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(sse_head() + frame(chunk("Добрый")))
        await peer.left()

    upstream.set(script)
    stream = chat_stream(gateway, "bad/chat", "Привет")
    assert stream.text == "Добрый"
    assert stream.error is not None
    assert stream.error["type"] == "upstream_timeout"
    assert "idle_s has passed" in record_of(gateway, stream)["detail"]


def test_f06_a_stream_that_never_ends(upstream: Scripted, gateway: RunningGateway) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(sse_head())
        while True:
            peer.send(frame(chunk("и ")))
            await asyncio.sleep(0.05)

    upstream.set(script)
    stream = chat_stream(gateway, "bad/chat", "Привет")
    assert stream.error is not None
    assert stream.error["type"] == "upstream_timeout", "the total time is over"
    assert record_of(gateway, stream)["duration_ms"] < 4000


def test_f06_a_line_without_an_end(upstream: Scripted, gateway: RunningGateway) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(sse_head() + frame(chunk("Добрый")) + frame(b"data: "))
        for _ in range(64):
            peer.send(frame(b"x" * 1_000_000))
            await peer.drain()

    upstream.set(script)
    stream = chat_stream(gateway, "bad/chat", "Привет")
    assert stream.error is not None
    assert stream.error["code"] == 502


def test_f36_an_upstream_that_echoes_the_key(upstream: Scripted, gateway: RunningGateway) -> None:
    upstream.set(echoes)
    refused = chat(gateway, "bad/chat", "Привет")
    assert refused.status_code == 400
    assert "bad key" in refused.json()["error"]["message"], "the rest of the text still explains the refusal"
    assert KEY not in refused.text + str(refused.headers)
    record_of(gateway, refused)
    assert KEY not in gateway.log.text.decode()


@pytest.mark.parametrize(
    "usage", ['{"prompt_tokens":-5,"completion_tokens":1}', '{"prompt_tokens":1e30}', '"many"', "[]"]
)
def test_f07_a_usage_that_cannot_be_true_is_counted_here(
    upstream: Scripted, gateway: RunningGateway, usage: str
) -> None:
    body = (
        '{"id":"up-1","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Добрый день"},'
        f'"finish_reason":"stop"}}],"usage":{usage}}}'
    )
    upstream.set(answering(answer(body.encode(), JSON)))
    reply = chat(gateway, "bad/chat", "Привет")
    assert reply.status_code == 200
    record = record_of(gateway, reply)
    assert record["usage_source"] == "counted"
    assert reply.json()["usage"]["completion_tokens"] == record["output_tokens"] > 0


def test_f07_zero_usage_means_zero(upstream: Scripted, gateway: RunningGateway) -> None:
    body = (
        b'{"id":"up-1","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},'
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}'
    )
    upstream.set(answering(answer(body, JSON)))
    reply = chat(gateway, "bad/chat", "Привет")
    assert reply.json()["usage"]["total_tokens"] == 0
    assert record_of(gateway, reply)["usage_source"] == "reported"


def test_a_whole_answer_to_a_stream_becomes_chunks(upstream: Scripted, gateway: RunningGateway) -> None:
    """A few upstreams ignore `stream` and answer JSON."""
    body = (
        b'{"id":"up-1","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},'
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    )
    upstream.set(answering(answer(body, JSON)))
    stream = chat_stream(gateway, "bad/chat", "Привет", stream_options={"include_usage": True})
    assert stream.text == "Hello"
    assert stream.finish == ["stop"]
    assert stream.done
    assert stream.usage == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


def test_a_chunked_answer_that_comes_byte_by_byte(upstream: Scripted, gateway: RunningGateway) -> None:
    whole = chunk("Добрый") + chunk(" день", "stop") + b"data: [DONE]\n\n"

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.drip(
            chunked(*(whole[at : at + 1] for at in range(len(whole)))).replace(
                b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            ),
            7,
        )

    upstream.set(script)
    stream = read_stream(chat(gateway, "bad/chat", "Привет", stream=True))
    assert stream.text == "Добрый день"
    assert stream.done

"""Several targets for one model: fallback, rounds, Retry-After, deadlines, the breaker (fault matrix F01, F02, F04, F05)."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.hostile import Peer, Script, answer, answering
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, chat_stream, metric, read_stream, record_of

JSON = "content-type: application/json"
SSE = "content-type: text/event-stream"
TWO = """
upstreams:
  first:
    provider: openai
    base_url: ${FIRST_URL}
    timeouts: {connect_s: 1, first_byte_s: 0.3, idle_s: 1, total_s: 5}
  second:
    provider: openai
    base_url: ${SECOND_URL}
    timeouts: {connect_s: 1, first_byte_s: 0.3, idle_s: 1, total_s: 5}
  refusing: {provider: openai, base_url: "http://127.0.0.1:1/v1"}
models:
  both/chat: {price: free, routes: [{upstream: first, model: a}, {upstream: second, model: b}]}
  one/chat: {price: free, routes: [{upstream: first, model: a}]}
  two/chat: {price: free, routes: [{upstream: second, model: b}]}
  down/chat: {price: free, routes: [{upstream: refusing, model: c}]}
  down/both: {price: free, routes: [{upstream: refusing, model: c}, {upstream: second, model: b}]}
"""


def whole(text: str) -> bytes:
    body = (
        f'{{"id":"up","model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},'
        '"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}'
    )
    return answer(body.encode(), JSON)


def failing(status: str, *headers: str) -> Script:
    return answering(answer(b'{"error": {"message": "no"}}', JSON, *headers, status=status))


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.left()


async def dies_after_a_word(peer: Peer) -> None:
    await peer.request()
    word = b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{"content":"Da"},"finish_reason":null}]}\n\n'
    peer.send(b"HTTP/1.1 200 OK\r\n" + SSE.encode() + b"\r\n\r\n" + word)
    await peer.drain()
    await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def first() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def second() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


def served(first: Scripted, second: Scripted, folder: Path, routing: str) -> Iterator[RunningGateway]:
    config = TWO + CHAIN.replace("{retries: 2, fallback: true}", routing)
    with running_gateway(config, {"FIRST_URL": first.url, "SECOND_URL": second.url}, folder) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def gateway(first: Scripted, second: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    routing = "{retries: 1, breaker: {failures: 1000}}"
    yield from served(first, second, tmp_path_factory.mktemp("gateway"), routing)


@pytest.fixture
def guarded(first: Scripted, second: Scripted, tmp_path: Path) -> Iterator[RunningGateway]:
    """With a breaker that opens after two failures, for half a second, and no second round."""
    yield from served(first, second, tmp_path, "{retries: 0, breaker: {failures: 2, open_s: 0.5}}")


@pytest.mark.parametrize("fault", [failing("500 No"), failing("429 No"), failing("401 No"), silent])
@pytest.mark.parametrize("stream", [False, True])
def test_f05_the_second_target_serves(
    first: Scripted, second: Scripted, gateway: RunningGateway, fault: Script, stream: bool
) -> None:
    first.set(fault)
    second.set(answering(whole("Lima")))
    reply = chat(gateway, "both/chat", "Peru?", stream=stream)
    assert reply.status_code == 200
    assert reply.headers["x-xrouter-upstream"] == "second"
    assert (read_stream(reply).text if stream else reply.json()["choices"][0]["message"]["content"]) == "Lima"
    record = record_of(gateway, reply)
    assert [attempt["upstream"] for attempt in record["attempts"]] == ["first", "second"]
    assert record["upstream"] == "second"
    assert b'"model":"b"' in second.requests[0]


def test_f01_a_refused_connection_goes_on_at_once(second: Scripted, gateway: RunningGateway) -> None:
    second.set(answering(whole("Lima")))
    before = metric(gateway, "xrouter_upstream_errors_total", upstream="refusing", kind="connect")
    reply = chat(gateway, "down/both", "Peru?")
    assert reply.headers["x-xrouter-upstream"] == "second"
    assert reply.elapsed.total_seconds() < 0.5
    after = metric(gateway, "xrouter_upstream_errors_total", upstream="refusing", kind="connect")
    assert after == before + 1


def test_f01_nobody_left(gateway: RunningGateway) -> None:
    reply = chat(gateway, "down/chat", "Peru?")
    assert reply.status_code == 502
    assert "127.0.0.1" not in reply.text
    assert len(record_of(gateway, reply)["attempts"]) == 2, "one more round, as configured"


def test_nothing_follows_the_first_byte(first: Scripted, second: Scripted, gateway: RunningGateway) -> None:
    first.set(dies_after_a_word)
    second.set(answering(whole("Lima")))
    stream = chat_stream(gateway, "both/chat", "Peru?")
    assert stream.text == "Da"
    assert stream.finish == ["error"]
    assert second.requests == []
    assert len(first.requests) == 1


def test_a_clients_own_mistake_is_not_tried_elsewhere(
    first: Scripted, second: Scripted, gateway: RunningGateway
) -> None:
    first.set(failing("400 No"))
    second.set(answering(whole("Lima")))
    assert chat(gateway, "both/chat", "Peru?").status_code == 400
    assert second.requests == []


def test_models_are_tried_in_order_on_any_error(first: Scripted, second: Scripted, gateway: RunningGateway) -> None:
    """OpenRouter's `models[]`: a request that one model refuses may suit the next."""
    first.set(failing("400 No"))
    second.set(answering(whole("Lima")))
    reply = chat(gateway, "one/chat", "Peru?", models=["two/chat"])
    assert reply.status_code == 200
    assert reply.headers["x-xrouter-upstream"] == "second"
    assert reply.json()["model"] == "two/chat", "the client is told which one answered"


def test_preferences_choose_the_targets(first: Scripted, second: Scripted, gateway: RunningGateway) -> None:
    first.set(answering(whole("first")))
    second.set(answering(whole("second")))
    for provider, upstream in (
        ({}, "first"),
        ({"order": ["second"]}, "second"),
        ({"ignore": ["first"]}, "second"),
        ({"only": ["second"]}, "second"),
    ):
        reply = chat(gateway, "both/chat", "?", provider=provider)
        assert reply.headers["x-xrouter-upstream"] == upstream
    assert chat(gateway, "both/chat", "?", provider={"only": ["third"]}).status_code == 404
    first.set(failing("500 No"))
    alone = chat(gateway, "both/chat", "?", provider={"allow_fallbacks": False})
    assert alone.status_code == 502
    assert len(second.requests) == 3, "nothing since the three above"


def test_f04_the_longest_retry_after_is_kept_and_told(first: Scripted, gateway: RunningGateway) -> None:
    first.set(failing("429 No", "retry-after: 1"))
    began = time.monotonic()
    reply = chat(gateway, "one/chat", "Peru?")
    assert time.monotonic() - began >= 1
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "1"
    assert len(first.requests) == 2


def test_f04_an_upstream_at_its_limit_that_says_no_time_has_the_client_told_one(
    first: Scripted, gateway: RunningGateway
) -> None:
    """Fails without the time that `edge` gives."""
    first.set(failing("429 No"))
    reply = chat(gateway, "one/chat", "Peru?")
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")


def test_f02_no_first_byte_is_504_within_the_limit(first: Scripted, guarded: RunningGateway) -> None:
    """The goal is the limit and 100 ms, by the client's clock: the best of five, as the machine has others to serve."""
    first.set(silent)
    taken = []
    for _ in range(5):
        began = time.monotonic()
        reply = chat(guarded, "one/chat", "Peru?")
        taken.append(time.monotonic() - began)
        assert reply.status_code == 504
        assert reply.json()["error"]["type"] == "upstream_timeout"
    assert 0.3 <= min(taken) < 0.4


def test_f05_the_breaker_opens_probes_and_closes(first: Scripted, second: Scripted, guarded: RunningGateway) -> None:
    first.set(failing("500 No"))
    second.set(answering(whole("second")))
    for _ in range(5):
        assert chat(guarded, "both/chat", "?").headers["x-xrouter-upstream"] == "second"
    assert len(first.requests) == 2, "after two failures it is left alone"
    assert metric(guarded, "xrouter_upstream_ejected", upstream="first", model="a") == 1
    health = guarded.client.get("/health")
    assert health.json()["components"]["upstream:first"]["status"] == "failing"
    first.set(answering(whole("first")))
    time.sleep(0.5)
    assert chat(guarded, "both/chat", "?").headers["x-xrouter-upstream"] == "first", "one request is the probe"
    assert metric(guarded, "xrouter_upstream_ejected", upstream="first", model="a") == 0
    assert guarded.client.get("/health").status_code == 200


def test_f05_the_last_target_is_never_left_alone(first: Scripted, guarded: RunningGateway) -> None:
    first.set(failing("500 No"))
    for _ in range(4):
        assert chat(guarded, "one/chat", "?").status_code == 502
    assert len(first.requests) == 4


def test_a_clients_mistakes_do_not_open_the_breaker(first: Scripted, guarded: RunningGateway) -> None:
    first.set(failing("400 No"))
    for _ in range(4):
        assert chat(guarded, "both/chat", "?").status_code == 400
    assert metric(guarded, "xrouter_upstream_ejected", upstream="first", model="a") == 0

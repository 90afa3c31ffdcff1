"""Several credentials of one upstream, through the whole gateway: who is refused rests, the next serves the same request."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.hostile import Peer, Script, answer
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, metric, open_chat, post, record_of, until

JSON = "content-type: application/json"
KEYS = ("key-a-7f3c91", "key-b-0d52e8", "key-c-e61b04")
CONFIG = """
upstreams:
  up: {provider: openai, base_url: "${URL}", api_key: ["${A}", "${B}", "${C}", "${NONE:-}"], concurrency: 1, queue_s: 10}
models:
  up/chat: {price: free, routes: [{upstream: up, model: m}]}
  up/other: {price: free, routes: [{upstream: up, model: n}]}
""" + CHAIN.replace("{retries: 2, fallback: true}", "{retries: 0}")
GIGA = """
upstreams:
  giga: {provider: gigachat, base_url: "${URL}", auth_url: "${URL}/oauth", credentials: ["${A}", "${B}"]}
models:
  giga/chat: {price: free, routes: [{upstream: giga, model: GigaChat-2}]}
""" + CHAIN.replace("{retries: 2, fallback: true}", "{retries: 0}")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture
def gateway(upstream: Scripted, tmp_path: Path) -> Iterator[RunningGateway]:
    environ = {"URL": upstream.url, "A": KEYS[0], "B": KEYS[1], "C": KEYS[2]}
    with running_gateway(CONFIG, environ, tmp_path) as gateway:
        yield gateway


def whole(text: str) -> bytes:
    message = f'{{"role":"assistant","content":"{text}"}}'
    usage = '{"prompt_tokens":2,"completion_tokens":1}'
    choice = f'{{"index":0,"message":{message},"finish_reason":"stop"}}'
    return answer(f'{{"id":"up","model":"m","choices":[{choice}],"usage":{usage}}}'.encode(), JSON)


def key_of(request: bytes) -> int:
    found = re.search(rb"authorization: bearer ([\w-]+)", request, re.IGNORECASE)
    assert found is not None
    return KEYS.index(found[1].decode())


def refusing(refused: dict[int, bytes]) -> Script:
    """Says to each key what `refused` has for it, and to the others their number."""

    async def script(peer: Peer) -> None:
        while True:
            key = key_of(await peer.request())
            peer.send(refused.get(key) or whole(str(key)))
            await peer.drain()

    return script


def no(status: str, *headers: str) -> bytes:
    return answer(b'{"error": {"message": "no"}}', JSON, *headers, status=status)


def favourite(upstream: Scripted, gateway: RunningGateway, text: str) -> int:
    """The credential that takes the conversation of `text`."""
    upstream.set(refusing({}))
    return int(chat(gateway, "up/chat", text).json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "status", ["402 Payment Required", "401 Unauthorized", "403 Forbidden", "429 Too Many Requests"]
)
def test_the_next_credential_serves_the_same_request(upstream: Scripted, gateway: RunningGateway, status: str) -> None:
    """Fails if `Credentials.blame` always says that nobody else could take the call."""
    own = favourite(upstream, gateway, "Peru?")
    upstream.set(refusing({own: no(status, "retry-after: 30")}))
    reply = chat(gateway, "up/chat", "Peru?")
    assert reply.status_code == 200, reply.text
    served = int(reply.json()["choices"][0]["message"]["content"])
    assert served != own
    tried = record_of(gateway, reply)["attempts"]
    assert [(attempt["status"], attempt.get("reason"), attempt.get("credential", 0)) for attempt in tried] == [
        (int(status[:3]), None, own),
        (200, "credential", served),
    ]
    again = chat(gateway, "up/chat", "Peru?")
    assert int(again.json()["choices"][0]["message"]["content"]) == served
    assert [key_of(request) for request in upstream.requests].count(own) == 1, "it rests"
    assert metric(gateway, "xrouter_credential_resting_seconds", upstream="up", credential=str(own)) > 20
    health = gateway.client.get("/health").json()["components"]["upstream:up"]
    assert health["status"] == "ok", "the upstream itself is well"
    assert [credential["status"] for credential in health["credentials"]] == [
        "resting" if index == own else "ok" for index in range(3)
    ]
    assert health["credentials"][own]["models_resting"] == ["*" if status.startswith("401") else "m"]
    for key in KEYS:
        assert key not in gateway.log.text.decode() + str(health)


def test_what_one_model_is_denied_another_may_have(upstream: Scripted, gateway: RunningGateway) -> None:
    upstream.set(refusing(dict.fromkeys(range(3), no("403 Forbidden"))))
    assert chat(gateway, "up/chat", "Peru?").status_code == 403
    upstream.set(refusing({}))
    refused = chat(gateway, "up/chat", "Peru?")
    assert (refused.status_code, upstream.requests) == (403, []), "all rest: the error of the last, and no call"
    assert record_of(gateway, refused)["attempts"][0]["credential"] is None, "none was asked"
    assert chat(gateway, "up/other", "Peru?").status_code == 200


def test_a_free_credential_goes_before_a_queue(upstream: Scripted, gateway: RunningGateway) -> None:
    """Each has one place: three streams of one conversation run at a time. Fails if `choose` is blind."""

    async def holds(peer: Peer) -> None:
        await peer.request()
        word = b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + word)
        await peer.left()

    upstream.set(holds)
    with (
        open_chat(gateway, "up/chat", "Peru?") as one,
        open_chat(gateway, "up/chat", "Peru?") as two,
        open_chat(gateway, "up/chat", "Peru?") as three,
    ):
        bodies = [stream.iter_raw() for stream in (one, two, three)]  # one that is dropped closes its connection
        assert all(b"data:" in next(body) for body in bodies)
        assert sorted(map(key_of, upstream.requests)) == [0, 1, 2]
        assert metric(gateway, "xrouter_upstream_calls", upstream="up", state="active") == 3
        assert metric(gateway, "xrouter_credential_calls", upstream="up", credential="1", state="active") == 1
    until(lambda: metric(gateway, "xrouter_upstream_calls", upstream="up", state="active") == 0, timeout_s=15)


def test_conversations_keep_their_credential(upstream: Scripted, gateway: RunningGateway) -> None:
    upstream.set(refusing({}))
    for session in range(8):
        replies = [
            post(
                gateway, "/v1/chat/completions", model="up/chat", messages=[{"role": "user", "content": text}],
                headers={"x-session-id": f"s{session}"},
            )
            for text in ("Peru?", "And Chile?")
        ]  # fmt: skip
        assert len({reply.json()["choices"][0]["message"]["content"] for reply in replies}) == 1
    assert len({key_of(request) for request in upstream.requests}) > 1


def test_each_gigachat_key_signs_in_by_itself(upstream: Scripted, tmp_path: Path) -> None:
    """Fails if the credentials share a token: both calls would go out with the first one's."""
    keys = {"A": "YTpzZWNyZXQtb25l", "B": "YjpzZWNyZXQtdHdv"}
    out_of_tokens = {"token-of-A"}

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if b"/oauth " in request:
                (name,) = (name for name, key in keys.items() if key.encode() in request)
                peer.send(answer(f'{{"access_token":"token-of-{name}","expires_at":4102444800000}}'.encode(), JSON))
            elif any(token.encode() in request for token in out_of_tokens):
                peer.send(answer(b'{"status":402,"message":"Payment Required"}', JSON, status="402 No"))
            else:
                peer.send(whole("Lima"))
            await peer.drain()

    upstream.set(script)
    with running_gateway(GIGA, {"URL": upstream.url, **keys}, tmp_path) as gateway:
        for _ in range(3):
            assert chat(gateway, "giga/chat", "Peru?").status_code == 200
        out_of_tokens |= {"token-of-B"}
        spent = chat(gateway, "giga/chat", "Peru?")
        assert spent.status_code == 402
        assert spent.json()["error"]["type"] == "insufficient_quota"
        calls = len(upstream.requests)
        assert chat(gateway, "giga/chat", "Peru?").status_code == 402
        assert len(upstream.requests) == calls, "both rest"
    signed_in = [request for request in upstream.requests if b"/oauth " in request]
    assert len(signed_in) <= 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_f36_no_credential_of_several_is_told(upstream: Scripted, gateway: RunningGateway, stream: bool) -> None:
    """In an error's text, in a header, in an event of a stream. Fails on a version that masks only the first key."""
    told = " ".join(KEYS)
    refusal = answer(f'{{"error": {{"message": "not you: {told}"}}}}'.encode(), JSON, f"x-key: {told}", status="400 No")
    event = f'data: {{"error":{{"message":"not you: {told}","code":500}}}}\n\n'.encode()
    for said in (refusal, answer(event, "content-type: text/event-stream")):
        upstream.set(refusing(dict.fromkeys(range(3), said)))
        reply = chat(gateway, "up/chat", "Peru?", stream=stream)
        record_of(gateway, reply)
        for key in KEYS:
            assert key not in reply.text + str(reply.headers) + gateway.log.text.decode()

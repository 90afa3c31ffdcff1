"""No secret leaves: upstreams echo them in every shape, and all that the gateway says is searched for them (F36)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit.canaries import ENCODINGS, Canaries
from kit.gateway import CHAIN, RunningGateway, new_key, running_gateway
from kit.hostile import Peer, answer
from kit.scripted import Scripted, scripted_upstream
from kit.walk import user

from xrouter.cli import main
from xrouter.providers.gigachat_oauth import authorization_key
from xrouter.wire import encode_json

CONFIG = """
admin: {token: "${ADMIN_TOKEN}"}
redis: "redis://:${REDIS_PASSWORD}@127.0.0.1:1/0"
upstreams:
  plain: {provider: openai, base_url: "${URL}", api_key: "${OPENAI_KEY}"}
  httpx2: {provider: openai, base_url: "${URL}", api_key: "${HTTPX2_KEY}", engine: httpx2}
  proxied: {provider: openai, base_url: "http://127.0.0.1:2/v1", api_key: "${PROXIED_KEY}",
            proxy: "http://user:${PROXY_PASSWORD}@127.0.0.1:3"}
  giga: {provider: gigachat, base_url: "${URL}", auth_url: "${URL}/oauth", credentials: "${GIGA_CREDENTIALS}"}
  password: {provider: gigachat, base_url: "${URL}", auth_url: "${URL}/oauth", user: someone, password: "${GIGA_PASSWORD}"}
  yandex: {provider: yandexgpt, base_url: "${URL}", folder: b1gfolder, api_key: "${YANDEX_KEY}"}
  iam: {provider: yandexgpt, base_url: "${URL}", folder: b1gfolder, iam_token: "${IAM_TOKEN}"}
models:
  plain/m: {price: free, routes: [{upstream: plain, model: m}]}
  httpx2/m: {price: free, routes: [{upstream: httpx2, model: m}]}
  proxied/m: {price: free, routes: [{upstream: proxied, model: m}]}
  giga/m: {price: free, routes: [{upstream: giga, model: GigaChat-2}]}
  password/m: {price: free, routes: [{upstream: password, model: GigaChat-2}]}
  yandex/m: {price: free, routes: [{upstream: yandex, model: yandexgpt, surface: native}]}
  iam/m: {price: free, routes: [{upstream: iam, model: qwen3-235b-a22b-fp8, surface: openai}]}
""" + CHAIN.replace("retries: 2", "retries: 0, breaker: {failures: 100000}")
SLOTS = {
    "plain/m": "openai key",
    "httpx2/m": "httpx2 key",
    "proxied/m": "proxied key",
    "giga/m": "giga token",
    "password/m": "password token",
    "yandex/m": "yandex key",
    "iam/m": "iam key",
}
JSON = "content-type: application/json"


class Echo:
    """An upstream that signs in whoever comes, and then answers with what it has learnt, in the way that is set."""

    def __init__(self, canaries: Canaries) -> None:
        self.giga_token = canaries.new("giga token", "eyJ")
        self.password_token = canaries.new("password token", "eyJ")
        self.reply = answer(b"{}", JSON)

    async def __call__(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            if b"/oauth" in request.split(b"\r\n")[0] or b"/token" in request.split(b"\r\n")[0]:
                by_password = b"/token" in request.split(b"\r\n")[0]
                token = self.password_token if by_password else self.giga_token
                body = {"access_token": token, "expires_at": 4102444800000, "tok": token, "exp": 4102444800}
                peer.send(answer(encode_json(body), JSON))
            else:
                peer.send(self.reply)
            await peer.drain()


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def echo(canaries: Canaries) -> Echo:
    return Echo(canaries)


@pytest.fixture(scope="module")
def environ(canaries: Canaries, upstream: Scripted) -> dict[str, str]:
    client_id = "0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
    credentials = authorization_key(f"{client_id}:{canaries.new('giga secret', '')}")
    return {
        "URL": upstream.url,
        "ADMIN_TOKEN": canaries.new("admin token", "adm-"),
        "REDIS_PASSWORD": canaries.new("redis password", ""),
        "OPENAI_KEY": canaries.new("openai key"),
        "HTTPX2_KEY": canaries.new("httpx2 key"),
        "PROXIED_KEY": canaries.new("proxied key"),
        "PROXY_PASSWORD": canaries.new("proxy password", ""),
        "GIGA_CREDENTIALS": canaries.watch("giga credentials", credentials),
        "GIGA_PASSWORD": canaries.new("giga password", ""),
        "YANDEX_KEY": canaries.new("yandex key", "AQVN"),
        "IAM_TOKEN": canaries.new("iam key", "t1-"),
    }


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def gateway(
    canaries: Canaries, echo: Echo, environ: dict[str, str], upstream: Scripted, folder: Path
) -> Iterator[RunningGateway]:
    upstream.set(echo)
    with running_gateway(CONFIG, environ, folder) as gateway:
        canaries.watch("client key", gateway.key)
        yield gateway


def said(response: httpx2.Response) -> bytes:
    return "\n".join(f"{name}: {value}" for name, value in response.headers.items()).encode() + response.content


def replies(echoed: str) -> dict[str, bytes]:
    """Ways in which an upstream can answer with `echoed`."""
    message = encode_json({"error": {"message": echoed, "type": echoed, "code": echoed, "param": echoed}})
    rpc = encode_json({"code": 16, "message": echoed, "details": [echoed]})
    header = "x-echo: " + echoed.encode("ascii", "ignore").decode()
    event = b"data: " + encode_json({"error": {"message": echoed, "code": 500}}) + b"\n\n"
    line = encode_json({"error": {"message": echoed, "grpcCode": 13, "httpCode": 500}}) + b"\n"
    sse, ndjson = "content-type: text/event-stream", "content-type: application/json"
    errors = (400, 401, 403, 422, 429, 500)
    return {
        **{f"{status} error": answer(message, JSON, header, status=f"{status} No") for status in errors},
        "400 rpc": answer(rpc, JSON, status="400 No"),
        "401 rpc": answer(rpc, JSON, status="401 No"),
        "400 flat": answer(encode_json({"status": 400, "message": echoed}), JSON, status="400 No"),
        "400 text": answer(echoed.encode(), "content-type: text/plain", status="400 No"),
        "500 page": answer(f"<html>{echoed}</html>".encode(), "content-type: text/html", status="500 No"),
        "302": answer(b"", "location: http://127.0.0.1:1/?key=" + "".join(echoed.split()), status="302 Found"),
        "200 error": answer(message, JSON, header),
        "200 garbage": answer(echoed.encode(), JSON),
        "200 type": answer(b"{}", "content-type: text/" + "".join(echoed.split())[:200]),
        "reason": f"HTTP/1.1 500 {echoed}\r\ncontent-length: 0\r\n\r\n".encode(),
        "stream": answer(event, sse),
        "ndjson": answer(line, ndjson),
    }  # fmt: skip


@pytest.mark.parametrize("model", SLOTS)
def test_f36_an_upstream_that_tells_what_it_was_sent(
    canaries: Canaries, echo: Echo, gateway: RunningGateway, upstream: Scripted, model: str
) -> None:
    upstream.set(echo)
    leaks: set[str] = set()
    slot = SLOTS[model]
    for shape, echoed in canaries.shapes(slot).items():
        if shape == "part" and slot.endswith("token"):
            continue  # a few characters of a token that lives for minutes look like any word, and open nothing
        for way, reply in replies(echoed).items():
            echo.reply = reply
            for stream in (False, True):
                body = {"model": model, "messages": user("x"), "stream": stream}
                response = gateway.client.post("/v1/chat/completions", json=body)
                leaks.update(canaries.found_in(said(response), where=f"the answer to {way} with {shape}"))
    assert not leaks
    record = gateway.log.request(response.headers["x-request-id"])
    assert record["event"] == "request"
    assert not canaries.found_in(gateway.log.text, where="the log")


def test_f36_everything_else_that_the_gateway_says(
    canaries: Canaries,
    environ: dict[str, str],
    gateway: RunningGateway,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = canaries.watch("other client key", new_key(gateway.store, name="other"))
    revealed: list[str] = []
    for headers in (
        {"Authorization": "Bearer " + environ["ADMIN_TOKEN"]},
        {"Authorization": "Basic " + other},
        {"Authorization": "Bearer " + other[:-1] + "x"},
        {"Authorization": "Bearer " + other, "x-api-key": other},
        {"x-api-key": other},
    ):
        for path in (
            "/v1/models",
            "/v1/no/such/path",
            "/v1/models/a/b/endpoints",
            "/api/v1/providers",
            "/health",
            "/metrics",
        ):
            response = httpx2.get(gateway.url + path, headers=headers, verify=False)
            revealed += canaries.found_in(said(response), where=path)
        body = {"model": "plain/m", "messages": user("x")}
        response = httpx2.post(gateway.url + "/v1/chat/completions", headers=headers, json=body, verify=False)
        revealed += canaries.found_in(said(response), where="a chat")
    settings = gateway.app.settings
    for shown in (repr(settings), str(settings), repr(settings.upstreams), f"{settings.admin}", repr(gateway.app)):
        revealed += canaries.found_in(shown, where="repr(settings)")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for arguments in ([], ["--json"]):
        assert main(["check", "-c", str(folder / "xrouter.yaml"), *arguments]) == 0
    wrong = folder / "wrong.yaml"
    wrong.write_text(
        CONFIG.replace("provider: openai", "provider: openai, api_kee: '${OPENAI_KEY}', concurrency: '${IAM_TOKEN}'")
    )
    assert main(["check", "-c", str(wrong)]) == 1
    output = capsys.readouterr()
    revealed += canaries.found_in(output.out + output.err, where="xrouter check")
    revealed += canaries.found_in(gateway.log.text, where="the log")
    assert "wrong.yaml:" in output.err
    assert not revealed


def test_the_upstreams_were_really_sent_the_secrets(
    canaries: Canaries, upstream: Scripted, gateway: RunningGateway
) -> None:
    """The test of the test: what is searched for is what was sent, and the search finds it in every encoding."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0)
        peer.send(answer(b"{}", JSON, status="500 No"))

    upstream.set(script)
    gateway.client.post("/v1/chat/completions", json={"model": "plain/m", "messages": user("x")})
    assert canaries.found_in(upstream.requests[0], where="the request") == [
        "openai key as plain in the request", "openai key as part in the request",
    ]  # fmt: skip
    value = canaries.new("a test")
    for name, encode in ENCODINGS.items():
        assert f"a test as {name} in x" in canaries.found_in(b"..." + encode(value) + b"...", where="x")


def test_nothing_odd_is_left(gateway: RunningGateway) -> None:
    """All that traffic has failed in documented ways: none of it was an internal error."""
    odd: list[dict[str, Any]] = [record for record in gateway.log.requests() if record.get("origin") == "internal"]
    assert odd == []

"""A whole request cancelled at every place where it can wait: places, connections, tasks and holds are all given back.

Runs the gateway without its front, in the test's own event loop, so that the request's coroutine can be cancelled anywhere.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kit.cancel import cancel_at_every_await
from kit.hostile import Hostile, Peer, answer
from kit.walk import user

import xrouter
from xrouter.app import Gateway
from xrouter.auth.issue import issue
from xrouter.config.load import load
from xrouter.ledger.direct import apply_once
from xrouter.ledger.operations import Transfer
from xrouter.ledger.proof import prove
from xrouter.observe.logs import LogWriter
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.wire import encode_json
from xrouter.world import RealWorld

PACKAGE = str(Path(xrouter.__file__).parent)

CONFIG = """
store: sqlite:///{folder}/gateway.db
upstreams:
  http1: {{provider: openai, base_url: "{url}", concurrency: 1}}
  httpx2: {{provider: openai, base_url: "{url}", concurrency: 1, engine: httpx2}}
  giga: {{provider: gigachat, base_url: "{url}", auth_url: "{url}/oauth", credentials: Y2xpZW50OnNlY3JldA==}}
models:
  http1/m: {{price: {{input: "0.5", output: "1"}}, routes: [{{upstream: http1, model: m}}]}}
  httpx2/m: {{price: {{input: "0.5", output: "1"}}, routes: [{{upstream: httpx2, model: m}}]}}
  giga/m: {{price: {{input: "0.5", output: "1"}}, routes: [{{upstream: giga, model: GigaChat-2}}]}}
filters: [{{auth: {{}}}}, {{body: {{}}}}, {{routing: {{}}}}, {{token_count: {{}}}}, {{quota: {{}}}}]
"""
JSON, SSE = "content-type: application/json", "content-type: text/event-stream"
CHUNK = '{"id":"u","model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":%s}]%s}'
USAGE = '"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}'


async def upstream(peer: Peer) -> None:
    """Answers in pieces, whole or streamed as asked, and signs in whoever wants to."""
    while True:
        request = await peer.request()
        if b"/oauth " in request:
            peer.send(answer(b'{"access_token":"t","expires_at":4102444800000}', JSON))
        elif b'"stream":true' in request:
            first, last = CHUNK % ("null", ""), CHUNK % ('"stop"', "," + USAGE)
            body = f"data: {first}\n\ndata: {last}\n\ndata: [DONE]\n\n".encode()
            await peer.drip(answer(body, SSE), 60)
        else:
            choice = '{"index":0,"message":{"role":"assistant","content":"words"},"finish_reason":"stop"}'
            await peer.drip(answer(f'{{"id":"u","model":"m","choices":[{choice}],{USAGE}}}'.encode(), JSON), 60)
        await peer.drain()


class Bench:
    """The gateway in this loop, with one key, and one request to put to it."""

    def __init__(self, gateway: Gateway, key: str, hostile: Hostile) -> None:
        self.gateway = gateway
        self.hostile = hostile
        self.sent: list[dict[str, Any]] = []
        self._own = asyncio.all_tasks()
        self._headers = [(b"authorization", f"Bearer {key}".encode())]

    async def ask(self, model: str, *, stream: bool) -> None:
        body = encode_json({"model": model, "messages": user("x"), "stream": stream, "max_tokens": 10})
        pieces = [body[:10], body[10:]]
        self.sent.clear()

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0)
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            await asyncio.sleep(0)
            self.sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
            "headers": self._headers, "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await self.gateway(scope, receive, send)

    async def all_given_back(self) -> None:
        running = self.gateway._running
        assert running is not None
        services = running.services
        await self._settled()
        for name, each in services.upstreams.items():
            assert each.credentials.active == 0, f"{name}: a place is lost"
            assert each.credentials.waiting == 0
            assert each.credentials.stats().active == 0, f"{name}: a connection is lost"
        assert running.requests == 0
        assert self.gateway.metrics.registry.get_sample_value("xrouter_in_flight") == 0

    async def _settled(self) -> None:
        """Until nothing is left of the request: its last tasks may outlive it by some turns of the loop."""
        for _ in range(2000):
            if not self._left_over():
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"still running: {self._left_over()}")

    def _left_over(self) -> list[str]:
        """The gateway's tasks that are not its own for good."""
        return [
            task.get_name()
            for task in asyncio.all_tasks()
            if task.get_coro().cr_code.co_filename.startswith(PACKAGE)  # type: ignore[union-attr]
            and task not in self._own
            and not task.get_name().startswith(("ledger batch", "ledger transaction", "ledger sweeper"))
        ]


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    async with Hostile(upstream) as hostile:
        config = folder / "xrouter.yaml"
        config.write_text(CONFIG.format(folder=folder, url=f"http://127.0.0.1:{hostile.port}/v1"))
        settings = load(config, {})
        engine = await open_store(settings.store)
        issued = await issue(KeyStore(engine, RealWorld()), NewKey(name="test", account="acme"))
        gift = Transfer(kind="grant", account="acme", amount_nano=10**15, reason="test", author="test")
        await apply_once(engine, RealWorld(), gift)
        await engine.dispose()
        with (folder / "log").open("wb") as log:
            writer = LogWriter(log)
            gateway = Gateway(settings, log_writer=writer)
            await gateway.start()
            try:
                yield Bench(gateway, issued.secret.reveal(), hostile)
            finally:
                await gateway.aclose()
                writer.close()


async def proof(folder: Path) -> Any:
    engine = await open_store(f"sqlite:///{folder}/gateway.db")
    try:
        return await prove(engine)
    finally:
        await engine.dispose()


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["http1/m", "httpx2/m", "giga/m"])
async def test_f38_cancelled_anywhere(tmp_path: Path, model: str, stream: bool, late: bool) -> None:
    async with bench(tmp_path) as this:
        suspensions = await cancel_at_every_await(
            lambda: this.ask(model, stream=stream), this.all_given_back, late=late
        )
        assert suspensions > 5
        assert this.sent[-1]["more_body"] is False, "the last run was not cancelled and is answered"
        assert b"word" in b"".join(message.get("body", b"") for message in this.sent)
    found = await proof(tmp_path)
    assert found.ok, found
    assert found.holds_open == 0

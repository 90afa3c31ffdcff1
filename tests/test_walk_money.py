"""What a client is told a request costs, what the log says, and what its account is charged: one number."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.hostile import Peer, answer, answering
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, chat_stream, open_chat, record_of, until

from xrouter.ledger.proof import Proof, prove
from xrouter.store.accounts import Accounts
from xrouter.store.migrate import open_store
from xrouter.wire import encode_json

CONFIG = (
    """
upstreams:
  dear: {provider: openai, base_url: "${DEAR_URL}"}
  cheap: {provider: openai, base_url: "${CHEAP_URL}"}
models:
  a/b:
    price: {input: "2", output: "4", per: 1}
    routes: [{upstream: dear, model: m}, {upstream: cheap, model: m, price: {input: "0.5", output: "1", per: 1}}]
"""
    + CHAIN.replace("retries: 2", "retries: 0, breaker: {failures: 100000}")
    + "  - quota: {}\n"
)
JSON, SSE = "content-type: application/json", "content-type: text/event-stream"
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


def choice(**fields: Any) -> dict[str, Any]:
    return {"id": "u", "model": "m", "choices": [{"index": 0, "finish_reason": None, **fields}]}


MESSAGE = {"role": "assistant", "content": "a b c"}
WHOLE = answer(encode_json({**choice(message=MESSAGE, finish_reason="stop"), "usage": USAGE}), JSON)
WORD = b"data: " + encode_json(choice(delta={"content": "word "})) + b"\n\n"
END = encode_json({**choice(delta={}, finish_reason="stop"), "usage": USAGE})
LAST = b"data: " + END + b"\n\ndata: [DONE]\n\n"
CHEAP, DEAR = 10 * 0.5 + 3 * 1, 10 * 2 + 3 * 4  # credits


@pytest.fixture(scope="module")
def dear() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def cheap() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def gateway(dear: Scripted, cheap: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    environ = {"DEAR_URL": dear.url, "CHEAP_URL": cheap.url}
    with running_gateway(CONFIG, environ, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway
        found: Proof = reading(gateway, prove)
        assert found.ok, found.problems
        assert found.holds_open == 0


def reading(gateway: RunningGateway, read: Any) -> Any:
    async def run() -> Any:
        engine = await open_store(gateway.store)
        try:
            return await read(engine)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def balance(gateway: RunningGateway) -> float:
    view = reading(gateway, lambda engine: Accounts(engine).view("tests"))
    return float(view.balance_nano) / 1e9


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dear_works", [False, True])
def test_the_price_of_the_target_that_served(
    dear: Scripted, cheap: Scripted, gateway: RunningGateway, dear_works: bool, stream: bool
) -> None:
    works = answering(answer(WORD + LAST, SSE) if stream else WHOLE)
    dear.set(works if dear_works else answering(answer(b"{}", JSON, status="500 No")))
    cheap.set(works)
    expected = DEAR if dear_works else CHEAP
    before = balance(gateway)
    answered: Any
    if stream:
        answered = chat_stream(gateway, "a/b", "x", prefix="/api/v1")
        usage = answered.usage
    else:
        answered = chat(gateway, "a/b", "x", prefix="/api/v1")
        usage = answered.json()["usage"]
        assert float(answered.headers["x-xrouter-cost"]) == expected
    assert usage is not None
    assert usage["cost"] == expected
    assert before - balance(gateway) == pytest.approx(expected)
    assert record_of(gateway, answered)["cost_nano"] == expected * 10**9


def test_what_failed_costs_nothing(dear: Scripted, cheap: Scripted, gateway: RunningGateway) -> None:
    for upstream in (dear, cheap):
        upstream.set(answering(answer(b"{}", JSON, status="500 No")))
    before = balance(gateway)
    refused = chat(gateway, "a/b", "x")
    assert refused.status_code == 502
    assert balance(gateway) == before
    assert "cost_nano" not in record_of(gateway, refused)


def test_a_client_that_leaves_pays_for_what_it_got(dear: Scripted, gateway: RunningGateway) -> None:
    async def words(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + WORD * 5)
        await peer.left()

    dear.set(words)
    before = balance(gateway)
    with open_chat(gateway, "a/b", "x") as response:
        for piece in response.iter_bytes():
            if b"word" in piece:
                break
    record = gateway.log.request(response.headers["x-request-id"])
    assert record["status"] == 499
    assert record["usage_source"] == "counted"
    expected = record["input_tokens"] * 2 + record["output_tokens"] * 4
    assert record["cost_nano"] == expected * 10**9
    until(lambda: before - balance(gateway) == pytest.approx(expected))

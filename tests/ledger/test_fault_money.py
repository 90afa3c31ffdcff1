"""F02 and F29 on money: what never answered is free, and what is sent again happens once."""

import asyncio
from collections.abc import Iterator

import pytest
from kit.gateway import RunningGateway, running_gateway
from kit.hostile import Peer
from kit.keys import HandWorld
from kit.money import grant, money
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat

from xrouter.errors import Unprocessable
from xrouter.ledger.opening import open_ledger
from xrouter.ledger.operations import Balance

CONFIG = """
upstreams:
  up: {provider: openai, base_url: "${URL}", timeouts: {first_byte_s: 0.3}}
models:
  paid/chat: {price: {input: "1", output: "2"}, max_output: 1000, routes: [{upstream: up, model: m}]}
filters: [auth, body, {routing: {retries: 0}}, token_count, quota]
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Proven at its end, as every gateway of the tests is, with no hold left."""
    with running_gateway(CONFIG, {"URL": upstream.url}, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_f02_no_first_byte_is_504_and_free(upstream: Scripted, gateway: RunningGateway, stream: bool) -> None:
    """Fails if an outcome without usage is billed for its prompt."""

    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.left()

    upstream.set(silent)
    answer = chat(gateway, "paid/chat", "?", stream=stream)
    assert answer.status_code == 504
    receipt = gateway.client.get("/api/v1/generation", params={"id": answer.headers["x-generation-id"]})
    assert receipt.json()["data"]["total_cost"] == 0


async def test_f29_one_idempotency_key_grants_once_whoever_sends_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fails if a grant's idempotency key is looked up among those of its own batch only."""
    world = HandWorld()
    async with money(tmp_path_factory.mktemp("grants"), world) as books:
        other = open_ledger(books.engine, world, lease_s=60)
        sent = [ledger.transfer(grant(1_000, key="once")) for ledger in (books.ledger, other) for _ in range(50)]
        answers = await asyncio.gather(*sent)
        assert {answer.balance_nano for answer in answers if isinstance(answer, Balance)} == {1_000}
        with pytest.raises(Unprocessable):
            await other.transfer(grant(2_000, key="once"))
        assert (await books.account()).balance_nano == 1_000
        assert books.rows("SELECT count(*) FROM entries WHERE kind = 'grant'") == [(1,)]
        await other.aclose()

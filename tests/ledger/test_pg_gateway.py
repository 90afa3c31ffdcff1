"""The whole gateway on PostgreSQL, and the ledger behind PgBouncer in transaction mode."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import stores
from kit.gateway import new_key, running_gateway
from kit.money import KEY, assert_proven, grant, money, problems, settlement
from kit.pgbouncer import running_pgbouncer
from kit.postgres_server import PostgresServer

from xrouter.auth.issue import issue
from xrouter.ledger.opening import open_ledger
from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.world import RealWorld

pytestmark = pytest.mark.postgresql_only
CONFIG = """
store: {store}
upstreams:
  local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}
models:
  local/large:
    price: {{input: "0.3", output: "0.7", per: 1000}}
    routes: [{{upstream: local, model: sandbox-large}}]
filters: [{{auth: {{}}}}, {{body: {{}}}}, {{routing: {{}}}}, {{token_count: {{}}}}, {{quota: {{}}}}]
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


def test_a_gateway_on_postgresql_serves_charges_and_shows_it(sandbox: Sandbox, tmp_path: Path) -> None:
    store = stores.current.url(tmp_path / "gateway.db")
    body = {"model": "local/large", "messages": [{"role": "user", "content": "Столица Перу?"}]}
    with running_gateway(CONFIG.format(store=store), sandbox.environ, tmp_path) as gateway:
        cost = 0.0
        for streamed in (False, True):
            response = gateway.client.post("/v1/chat/completions", json={**body, "stream": streamed})
            assert response.status_code == 200, response.text
            receipt = gateway.client.get(f"/v1/generation?id={response.headers['x-generation-id']}").json()["data"]
            assert receipt["total_cost"] > 0
            cost += receipt["total_cost"]
        assert gateway.client.get("/v1/key").json()["data"]["usage"] == pytest.approx(cost)
        manager = {"Authorization": f"Bearer {new_key(store, management=True)}"}
        credits = gateway.client.get("/v1/credits", headers=manager).json()["data"]
        assert credits["total_usage"] == pytest.approx(cost)
        keys = gateway.client.get("/v1/keys", headers=manager).json()["data"]
        assert [key["usage"] for key in keys if key["usage"]] == [pytest.approx(cost)]
        assert gateway.client.get("/v1/activity", headers=manager).status_code == 200
        assert gateway.client.get("/health").status_code == 200
        assert b"xrouter_ledger_imbalance 0.0" in gateway.client.get("/metrics").content
    assert asyncio.run(problems(store)) == ()


async def test_behind_a_pooler_in_transaction_mode_nothing_is_prepared_and_all_goes_on(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Fails if a statement is prepared by name: the next transaction meets another process of the server.

    Two ledgers and SQLAlchemy's connections share three processes of the server, so that each meets several.
    """
    world = RealWorld()
    async with money(tmp_path, world) as books:
        await books.ledger.transfer(grant(10**9))
        with running_pgbouncer(postgres, pool_size=3) as port:
            url = stores.current.url(books.path).replace(f":{postgres.port}/", f":{port}/")
            engine = await open_store(url)
            ledgers = [open_ledger(engine, world, lease_s=60) for _ in range(2)]
            keys = KeyStore(engine, world)

            async def client(name: int) -> None:
                ledger = ledgers[name % 2]
                for number in range(5):
                    one = f"c{name}-{number}"
                    await ledger.hold(one, "acme", KEY, wanted_nano=2_000, least_nano=2_000)
                    await ledger.settle(settlement(one, 1_000), delivered=True)
                    issued = await issue(keys, NewKey(name=one))
                    assert await keys.get(issued.key.hash) == issued.key

            await asyncio.gather(*(client(name) for name in range(8)))
            assert [ledger._books._link._session._prepared for ledger in ledgers] == [None, None]  # type: ignore[attr-defined]
            for ledger in ledgers:
                await ledger.aclose()
            await assert_proven(engine)
            await engine.dispose()
        assert (await books.account()).balance_nano == 10**9 - 40 * 1_000

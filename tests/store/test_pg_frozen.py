"""What clients ask of a PostgreSQL that has stopped to answer in the middle of a statement."""

import asyncio
from collections.abc import Iterator

import pytest
from kit import stores
from kit.postgres_server import PostgresServer
from sqlalchemy import text

from xrouter.store import pg_engine
from xrouter.store.migrate import open_store

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    with stores.server_with_template() as server:
        yield server


async def test_f14_an_answer_that_does_not_come_ends_the_connection(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen while a transaction is open, where no ping is sent: the answer and the ROLLBACK have deadlines."""
    monkeypatch.setattr(pg_engine, "_CLIENT_ANSWER_TIMEOUT_S", 0.5)
    engine = await open_store(own_server.new_database("template_schema"), serving=True)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(TimeoutError):  # noqa: PT012
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                own_server.freeze()
                await connection.execute(text("SELECT 1"))
    own_server.thaw()
    async with asyncio.timeout(PATIENCE_S), engine.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await engine.dispose()

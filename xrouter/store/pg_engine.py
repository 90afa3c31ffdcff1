"""SQLAlchemy's engine for PostgreSQL: keys, receipts, sums, proofs. The ledger does not write through it (pg_books.py)."""

import asyncio
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only as await_

from xrouter.store.engine import StoreError
from xrouter.store.pg_servers import FAILURES, Connection, PgServers

# A process has at most so many connections at once, and one more for its ledger.
POOL_SIZE: Final = 4
POOL_OVERFLOW: Final = 4
_POOL_TIMEOUT_S: Final = 1.0  # who waits longer for one is refused (F14)
# Of one statement for a client, by our own clock: a server that is frozen does not end it by its own.
_CLIENT_ANSWER_TIMEOUT_S: Final = 5.0
_PING_TIMEOUT_S: Final = 0.8
_RECYCLE_S: Final = 1800.0  # what a pooler or a firewall has forgotten meanwhile is not met by a request
_DRIVER: Final = "postgresql+xrouter"


class PgDialect(PGDialect_asyncpg):
    """Connects by `PgServers` and leaves nothing prepared behind, so that a pooler may stand between."""

    supports_statement_cache = True

    def __init__(self, servers: PgServers, answer_timeout_s: float | None, **others: Any) -> None:
        super().__init__(**others)  # type: ignore[no-untyped-call]
        self.servers = servers
        self._answer_timeout_s = answer_timeout_s

    def connect(self, *arguments: Any, **settings: Any) -> Any:
        """What SQLAlchemy has read from the engine's URL is left aside: `servers` has read the whole of it."""
        return self.loaded_dbapi.connect(
            async_creator_fn=self._connect,
            prepared_statement_cache_size=0,
            prepared_statement_name_func=_unnamed,
        )

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Before a connection is used again. A server that is frozen, or gone without a word, answers no ping either."""
        return await_(_ping(self.get_driver_connection(dbapi_connection)))  # type: ignore[no-untyped-call]

    async def _connect(self) -> Connection:
        connection = await self.servers.connect(answer_timeout_s=self._answer_timeout_s)
        # Sums of BIGINT are NUMERIC, and the only ones that are read: integers for us, as they are on SQLite.
        await connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=int, format="text")
        return connection


def create_pg_engine(url: str, *, serving: bool) -> AsyncEngine:
    """Raises ValueError for a URL that cannot work, StoreError for one that names files that are not there."""
    servers = PgServers(url)
    for name, file in servers.files.items():
        if not Path(file).is_file():
            raise StoreError(f"`{name}` of the store {servers.description} is no file: {file}")
    engine = create_async_engine(
        URL.create(_DRIVER, database=servers.database),
        servers=servers,
        answer_timeout_s=_CLIENT_ANSWER_TIMEOUT_S if serving else None,
        hide_parameters=True,
        isolation_level="REPEATABLE READ",  # but for `xrouter.store.engine.writing`
        execution_options={"postgresql_readonly": True},
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=_POOL_TIMEOUT_S,
        pool_recycle=_RECYCLE_S,
        pool_pre_ping=True,
    )
    event.listen(engine.sync_engine, "handle_error", _give_up)
    return engine


def servers_of(engine: AsyncEngine) -> PgServers:
    dialect = engine.dialect
    assert isinstance(dialect, PgDialect)
    return dialect.servers


def _give_up(failure: ExceptionContext) -> None:
    """A connection that has not answered in time is left at once: its ROLLBACK would wait for the same server."""
    if isinstance(failure.original_exception, TimeoutError) and failure.connection is not None:
        driver_connection = failure.connection.connection.driver_connection
        assert driver_connection is not None
        driver_connection.terminate()
        failure.is_disconnect = True


async def _ping(connection: Connection) -> bool:
    try:
        async with asyncio.timeout(_PING_TIMEOUT_S):
            await connection.execute("SELECT 1")
    except FAILURES:
        connection.terminate()
        return False
    return True


def _unnamed() -> str:
    return ""


registry.register("postgresql.xrouter", __name__, PgDialect.__name__)

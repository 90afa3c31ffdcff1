"""One operation in a transaction of SQLAlchemy's: for commands, which write once and have no ledger running."""

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.errors import StoreUnavailable, XRouterError
from xrouter.ledger.book import Book
from xrouter.ledger.operations import Operation, Result
from xrouter.store.engine import reason, writing
from xrouter.store.ledger import LedgerTables
from xrouter.world import World


async def apply_once(engine: AsyncEngine, world: World, operation: Operation) -> Result:
    """Durable when it returns. Raises what the operation is refused with, and StoreUnavailable."""
    try:
        async with writing(engine) as connection:
            return await apply_within(connection, world, operation)
    except (DBAPIError, OSError) as error:
        raise StoreUnavailable(detail=reason(error)) from error


async def apply_within(connection: AsyncConnection, world: World, operation: Operation) -> Result:
    """The same in a transaction that is under way (`xrouter.store.engine.writing`)."""
    if connection.dialect.name == "postgresql":
        return await _on_postgresql(connection, world, operation)
    return await connection.run_sync(_on_sqlite, world, operation)


def _on_sqlite(connection: Connection, world: World, operation: Operation) -> Result:
    tables = LedgerTables(lambda sql, values: connection.exec_driver_sql(sql, tuple(values)))
    book = Book(tables, int(world.now() * 1e6), set())
    result = book.apply(operation)
    book.write()
    return result


async def _on_postgresql(connection: AsyncConnection, world: World, operation: Operation) -> Result:
    from xrouter.ledger.pg_batch import WRITE_LOCK, apply_batch  # only who uses it pays for its import
    from xrouter.store.pg_session import PgSession

    await connection.execute(text(WRITE_LOCK))
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    session = PgSession(raw.driver_connection, prepares=False)
    _, (result,) = await apply_batch(session, [operation], int(world.now() * 1e6), set())
    if isinstance(result, XRouterError):
        raise result
    return result

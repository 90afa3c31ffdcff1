"""One operation in a transaction of SQLAlchemy's: for commands, which write once and have no ledger running."""

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.errors import StoreUnavailable
from xrouter.ledger.book import Book
from xrouter.ledger.operations import Operation, Result
from xrouter.store.engine import reason, writing
from xrouter.store.ledger import LedgerTables
from xrouter.world import World


async def apply_once(engine: AsyncEngine, world: World, operation: Operation) -> Result:
    """Durable when it returns. Raises what the operation is refused with, and StoreUnavailable."""
    try:
        async with writing(engine) as connection:
            return await connection.run_sync(apply_within, world, operation)
    except DBAPIError as error:
        raise StoreUnavailable(detail=reason(error)) from error


def apply_within(connection: Connection, world: World, operation: Operation) -> Result:
    """The same in a transaction that is under way and has the write lock (`xrouter.store.engine.writing`)."""
    tables = LedgerTables(
        lambda sql, row: connection.exec_driver_sql(sql, tuple(row)),
        lambda sql, rows: connection.exec_driver_sql(sql, [tuple(row) for row in rows]),
    )
    book = Book(tables, int(world.now() * 1e6), set())
    result = book.apply(operation)
    book.write()
    return result

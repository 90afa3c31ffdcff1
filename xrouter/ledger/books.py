"""Where the ledger is kept: one SQLite file, written in batches by one thread of its own.

`commit` is the whole interface. An implementation for PostgreSQL has the same rules (`Book`), other SQL and no thread.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from xrouter.errors import InternalError, StoreUnavailable, XRouterError
from xrouter.ledger.book import Book, apply_all
from xrouter.ledger.operations import Operation, Result
from xrouter.ledger.worker import Worker
from xrouter.store.engine import moved
from xrouter.store.ledger import LedgerTables, LostRace
from xrouter.store.remembered import Remembered

BUSY_TIMEOUT_S: Final = 1.0  # another process writes: nobody waits longer than this for the lock (F14)
_ASK_AGAIN_S: Final = 0.0005
_CACHED_STATEMENTS: Final = 128
_RETRY_AFTER_S: Final = 1.0

# Of a None that is bound to a statement sqlite3 asks its type, the protocol and itself how it is adapted, 1 µs each time,
# unless it has been told. A charge and its receipt have some eight.
sqlite3.register_adapter(type(None), lambda none: none)


class Books(Protocol):
    """Commits batches. One at a time: the caller waits for each."""

    def commit(self, operations: list[Operation]) -> "asyncio.Future[list[Result | XRouterError]]":
        """All of them in one transaction, each refused or done by itself.

        Raises StoreUnavailable if nothing is known to be done: then each may be sent again, since the ledger knows what it
        has done already.
        """

    async def aclose(self) -> None: ...


class SqliteBooks:
    """`trace` is called with each statement before it runs: for tests that stop the process between two of them."""

    def __init__(self, path: Path, now: Callable[[], float], trace: Callable[[str], object] | None = None) -> None:
        self._path = path
        self._now = now
        self._trace = trace
        self._worker = Worker("ledger")
        self._connection: sqlite3.Connection | None = None
        self._durable: bool | None = None
        self._seen_prices: set[str] = set()
        self._remembered = Remembered()

    def commit(self, operations: list[Operation]) -> "asyncio.Future[list[Result | XRouterError]]":
        return self._worker.run(self._commit_guarded, operations)

    async def aclose(self) -> None:
        await self._worker.run(self._close)
        self._worker.close()

    def _commit_guarded(self, operations: list[Operation]) -> list[Result | XRouterError]:
        try:
            return self._commit(operations)
        except sqlite3.OperationalError as error:  # locked, full, gone
            self._close()
            raise StoreUnavailable(retry_after_s=_RETRY_AFTER_S, detail=f"ledger: {error}") from error
        except Exception as error:
            # An operation has met a case that its rules do not know. It must not take the others of its batch with it.
            self._close()
            if moved(error):
                raise StoreUnavailable(retry_after_s=_RETRY_AFTER_S, detail=f"ledger: {error}") from error
            if len(operations) > 1:
                return [result for operation in operations for result in self._commit_guarded([operation])]
            if isinstance(error, sqlite3.DatabaseError | LostRace) and not isinstance(error, sqlite3.IntegrityError):
                raise StoreUnavailable(retry_after_s=_RETRY_AFTER_S, detail=f"ledger: {error}") from error
            return [InternalError(detail=f"ledger: {type(error).__name__}: {error}")]

    def _commit(self, operations: list[Operation]) -> list[Result | XRouterError]:
        connection = self._connection or self._connect()
        self._begin(connection, any(operation.durable for operation in operations))
        try:
            tables = LedgerTables(connection.execute, self._remembered)
            book = Book(tables, int(self._now() * 1e6), self._seen_prices)
            results = apply_all(book, operations)
            book.write()
            connection.execute("COMMIT")
        except BaseException:
            self._remembered = Remembered()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        book.stored()
        return results

    def _begin(self, connection: sqlite3.Connection, durable: bool) -> None:
        """Take SQLite's one lock for writers, within BUSY_TIMEOUT_S.

        SQLite by itself would ask again after 1, 2, 5, 10, 15 ms and so on: one worker sleeps while nobody has the lock.
        """
        until = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._set_durability(connection, durable)
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(_ASK_AGAIN_S)
            else:
                return

    def _set_durability(self, connection: sqlite3.Connection, durable: bool) -> None:
        """FULL waits at the commit until the disk has it. NORMAL does not, and loses nothing unless the power goes."""
        if durable is not self._durable:
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",  # a file that has gone is not made anew, empty
            uri=True,
            timeout=0,  # `_begin` waits, and asks again sooner
            isolation_level=None,  # transactions are begun and ended above, by nobody else
            check_same_thread=False,  # closed by whichever thread the interpreter ends in
            cached_statements=_CACHED_STATEMENTS,
        )
        connection.set_trace_callback(self._trace)
        self._connection = connection
        self._remembered = Remembered()
        return connection

    def _close(self) -> None:
        """After an error whether the commit came through may be unknown; a new connection sees what is so."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._durable = None
        self._seen_prices.clear()

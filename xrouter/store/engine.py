"""A store's URL → an engine whose transactions mean the same on SQLite and PostgreSQL."""

import sqlite3
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, event, func, make_url, select
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_BUSY_TIMEOUT_S: Final = 5.0  # how long a writer of SQLite waits for the one before it
_CLIENT_BUSY_TIMEOUT_S: Final = 1.0  # where a client waits for it (F14)
_POOL_TIMEOUT_S: Final = 5.0  # how long a caller waits for a connection
_BEGIN: Final = "xrouter_begin"
_WRITES_ON_SQLITE: Final = {_BEGIN: "BEGIN IMMEDIATE"}
_WRITES_ON_POSTGRESQL: Final = {"isolation_level": "READ COMMITTED", "postgresql_readonly": False}
WRITERS: Final = 0x7872777269746572  # "xrwriter": the turn of whoever changes rows
MOVED: Final = "has moved to"  # how the triggers of a store that was left for another one begin to say so
_WRITTEN: Final = "a store is written sqlite:///file or postgresql://user:password@host/database"
_PASSING_IN_SQLITE: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})
# Classes of PostgreSQL's errors: no connection, a standby, a transaction to repeat, no resources, what somebody else has, an
# operator at work (it starts, or stops). Not among them: a wrong password (28), a database that is not there (3D).
_PASSING_IN_POSTGRESQL: Final = frozenset({"08", "25", "40", "53", "55", "57"})


class StoreError(Exception):
    """The database cannot be used as it is. The message is for the operator and names no password."""


class StoreAway(StoreError):
    """It cannot be used now, and may be usable in a moment without anybody's doing."""


def create_engine(url: str, *, serving: bool = False) -> AsyncEngine:
    """The engine for `sqlite:///file` (relative to the working directory, or absolute) or `postgresql://…`.

    `serving`: clients wait for what it does, so that it fails where a command would wait: for SQLite's lock, or for an
    answer of PostgreSQL. Nothing is connected yet. Raises StoreError for a URL that cannot work.
    """
    scheme = url.partition(":")[0]
    try:
        match scheme:
            case "sqlite":
                return _sqlite(make_url(url), _CLIENT_BUSY_TIMEOUT_S if serving else _BUSY_TIMEOUT_S)
            case "postgresql":
                from xrouter.store.pg_engine import create_pg_engine  # only who uses it pays for its import

                return create_pg_engine(url, serving=serving)
    except (ArgumentError, ValueError):
        raise StoreError(_WRITTEN) from None
    raise StoreError(f"a store is sqlite or postgresql, not {scheme}" if "://" in url else _WRITTEN)


def describe(engine: AsyncEngine) -> str:
    """The engine's URL for messages, without its password."""
    if engine.dialect.name == "postgresql":
        from xrouter.store.pg_engine import servers_of

        return servers_of(engine).description
    return engine.url.set(drivername=engine.url.get_backend_name()).render_as_string(hide_password=True)


def reason(error: Exception) -> str:
    """What went wrong, in the database's own words but without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"{type(cause).__name__}: {cause}"


def passes(error: BaseException) -> bool:
    """Whether what has failed so may go well in a moment, though nobody changes the configuration, a right or the schema."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _PASSING_IN_SQLITE
    if isinstance(cause, OSError):  # a socket's; a file that is not there may be a server's socket
        return not isinstance(cause, ssl.SSLCertVerificationError | PermissionError)
    state = getattr(cause, "sqlstate", None)  # asyncpg's, and SQLAlchemy's around it
    if state is not None:
        return str(state)[:2] in _PASSING_IN_POSTGRESQL
    return not isinstance(cause.__cause__ or cause, ValueError)  # asyncpg's word for an address that cannot be right


@asynccontextmanager
async def writing(engine: AsyncEngine, *, turn: int = WRITERS) -> AsyncIterator[AsyncConnection]:
    """One transaction that writes; committed at the end of the block, rolled back if it raises.

    Writers take turns. On SQLite this takes the write lock at its beginning: a transaction that began by reading and then
    wrote would fail at once with "database is locked", whatever the busy timeout, if another had written in between. On
    PostgreSQL it waits for whoever else has this `turn`, by a lock that ends with the transaction.

    All other transactions only read, and each reads one state of the database, as it was at its beginning.
    """
    postgresql = engine.dialect.name == "postgresql"
    options = _WRITES_ON_POSTGRESQL if postgresql else _WRITES_ON_SQLITE
    async with engine.connect() as connection:
        await connection.execution_options(**options)
        async with connection.begin():
            if postgresql:
                await connection.execute(select(func.pg_advisory_xact_lock(turn)))
            yield connection


def _sqlite(url: URL, busy_timeout_s: float) -> AsyncEngine:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise StoreError("a store in memory would lose its keys and its money; write sqlite:///file")
    folder = Path(url.database).absolute().parent
    if not folder.is_dir():
        raise StoreError(f"the store's folder {folder} does not exist")
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        hide_parameters=True,
        pool_timeout=_POOL_TIMEOUT_S,
        # sqlite3 must not begin transactions by itself: it would leave reads and DDL outside of them.
        connect_args={"timeout": busy_timeout_s, "isolation_level": None},
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    event.listen(engine.sync_engine, "handle_error", _tell_moved)
    return engine


def moved(error: BaseException | None) -> bool:
    """Whether SQLite refused a change because its store was left for another one (xrouter/store/copying/mark.py)."""
    return isinstance(error, sqlite3.IntegrityError) and f" {MOVED} " in str(error)


def _tell_moved(failure: ExceptionContext) -> None:
    """To SQLite a trigger's refusal is a constraint, which callers may take for a row that is there already."""
    if moved(failure.original_exception):
        raise OperationalError(None, None, failure.original_exception, hide_parameters=True) from None


def _set_pragmas(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    # In WAL mode (a property of the file, set when it is made) NORMAL may lose the last commits at a power cut. Some of
    # them will be charges that a client has been told of.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

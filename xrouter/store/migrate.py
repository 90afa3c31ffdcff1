"""The schema's versions: which one a database has, and how it comes to the one that this program needs.

An empty SQLite file is given its schema by whoever opens it first. Everything else waits for `xrouter db upgrade`: a running
program never changes tables that hold data.

Versions N and N + 1 of the program run side by side on the schema of N + 1 if its migration only adds (F42): a table,
an index, a column that may be NULL or has a default. Such a migration says `EXPANDS = True`; what is used no more goes in
a later one. The older program does not have that migration, so the database says which oldest schema's program may go on.

Alembic is imported only where something is migrated: it would be a tenth of a running gateway's memory and start.
"""

import asyncio
import sqlite3
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, delete, insert, inspect, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.store.copying.mark import require_in_use
from xrouter.store.engine import StoreAway, StoreError, create_engine, describe, passes, reason, writing
from xrouter.store.integrity import require_sound
from xrouter.store.schema import revisions

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script

NEWEST: Final = "0007"  # the version of the schema that this program needs; the last one of migrations/versions
_OLDEST_SQLITE: Final = (3, 33)  # the first with UPDATE … FROM (store/many_rows.py)
_OLDEST: Final = "oldest_schema"  # the row of `revisions`; it is there only while older programs may go on
_UPGRADES: Final = 0x78726F75746572  # "xrouter": their turn, apart from that of other writers, who need not wait
_WAL_ATTEMPTS: Final = 200
_WAL_PAUSE_S: Final = 0.025


async def open_store(url: str, *, serving: bool = False, reading: bool = False) -> AsyncEngine:
    """The engine for `url` on a schema that this program knows; an empty SQLite database is made ready first.

    `reading`: a store that was moved away from is good enough, and so is one that is being filled. A gateway waits until
    that is complete.

    `serving`: it is for a gateway. A SQLite file is then looked through for damage first, for at most two seconds, and no
    use of the engine waits for long (`create_engine`).
    Raises StoreAway if the database cannot be reached, StoreError if it is damaged or its schema is another.
    """
    engine = create_engine(url)
    try:
        if engine.dialect.name == "sqlite" and sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            wanted = ".".join(map(str, _OLDEST_SQLITE))
            raise StoreError(f"this Python has SQLite {sqlite3.sqlite_version}; {wanted} or newer is needed")
        if serving:
            await require_sound(engine)
        if engine.dialect.name == "sqlite" and await _is_empty(engine):
            await upgrade(engine)
        await require_current(engine)
        if not reading:
            await require_in_use(engine, keep_waiting=serving)
    except (SQLAlchemyError, OSError) as error:
        await engine.dispose()
        kind = StoreAway if passes(error) else StoreError
        raise kind(f"the store {describe(engine)} cannot be opened: {reason(error)}") from error
    except BaseException:
        await engine.dispose()
        raise
    if not serving:
        return engine
    await engine.dispose()
    return create_engine(url, serving=True)


async def current(engine: AsyncEngine) -> str | None:
    """The version of the database's schema; None if it has none."""
    async with engine.connect() as connection:
        return await connection.run_sync(_revision)


async def require_current(engine: AsyncEngine) -> None:
    """Raise StoreError, with the command that helps, unless the database has this program's schema, or adds to it."""
    found = await current(engine)
    if found == NEWEST:
        return
    if found is not None and found > NEWEST:
        async with engine.connect() as connection:
            oldest = await connection.scalar(select(revisions.c.value).where(revisions.c.name == _OLDEST))
        if oldest is not None and oldest <= int(NEWEST):
            return
        raise StoreError(
            f"the store {describe(engine)} was made by a newer version of xrouter (schema {found}; this one knows {NEWEST})"
        )
    raise StoreError(
        f"the store {describe(engine)} has schema {found or 'none'}, this version needs {NEWEST};"
        " run `xrouter db upgrade -c FILE` with the gateway stopped or drained"
    )


async def upgrade(engine: AsyncEngine) -> tuple[str | None, str]:
    """Bring the schema to the newest version, in one transaction; returns the versions before and after.

    Several at once are safe: one works, the others wait for it and find nothing left to do.
    """
    if engine.dialect.name == "sqlite":
        await _use_write_ahead_log(engine)
    async with writing(engine, turn=_UPGRADES) as connection:
        before = await connection.run_sync(_revision)
        if before is not None and before not in _known():
            raise StoreError(f"the store {describe(engine)} was made by a newer version of xrouter (schema {before})")
        await connection.run_sync(_run)
        await connection.run_sync(_note_oldest, NEWEST)
    return before, NEWEST


async def downgrade(engine: AsyncEngine, to: str) -> tuple[str | None, tuple[str, ...]]:
    """Take the schema back to the version `to`, in one transaction, for an older program.

    Returns the version before and what each step has lost. Raises StoreError for a version that is not an earlier one.
    """
    async with writing(engine, turn=_UPGRADES) as connection:
        before = await connection.run_sync(_revision)
        lost = losses(before, to)
        await connection.run_sync(_run_down, to)
        await connection.run_sync(_note_oldest, to)
    return before, lost


def losses(found: str | None, to: str) -> tuple[str, ...]:
    """What the database loses from the version `found` down to `to`, a sentence for each step, the first step first."""
    known = sorted(_known())
    if found not in known or to not in known or to >= found:
        raise StoreError(f"from schema {found or 'none'} there is no way back to {to}; known are {', '.join(known)}")
    return tuple(_losses()[revision] for revision in reversed(known) if to < revision <= found)


async def _is_empty(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        return not await connection.run_sync(lambda sync: inspect(sync).get_table_names())


async def _use_write_ahead_log(engine: AsyncEngine) -> None:
    """Readers then never wait for the writer. The mode stays with the file, so it is set once.

    SQLite refuses the change at once, without its busy timeout, while another connection is in the file: several processes
    that meet a fresh file at the same time try again until one has done it.
    """
    for attempt in range(_WAL_ATTEMPTS):
        try:
            async with engine.connect() as connection:
                await _set_journal_mode(connection)
            return
        except OperationalError as error:
            if "locked" not in str(error.orig) or attempt == _WAL_ATTEMPTS - 1:
                raise
        await asyncio.sleep(_WAL_PAUSE_S)


async def _set_journal_mode(connection: AsyncConnection) -> None:
    """Outside of any transaction, where SQLite wants it; hence by way of the driver's own connection."""
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    cursor = await raw.driver_connection.execute("PRAGMA journal_mode=WAL")
    try:
        (mode,) = await cursor.fetchone()
    finally:
        await cursor.close()
    if mode != "wal":
        raise StoreError(f"SQLite cannot use a write-ahead log here (it stays with {mode}); is this a network drive?")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _run(connection: Connection) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _run_down(connection: Connection, to: str) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.downgrade(config, to)


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _note_oldest(connection: Connection, revision: str) -> None:
    """Write down which programs may go on with the schema `revision`."""
    scripts = _scripts()
    oldest = revision
    while scripts[oldest].module.__dict__.get("EXPANDS", False):
        oldest = str(scripts[oldest].down_revision)
    connection.execute(delete(revisions).where(revisions.c.name == _OLDEST))
    if oldest != revision:
        connection.execute(insert(revisions).values(name=_OLDEST, value=int(oldest)))


def _known() -> frozenset[str]:
    return frozenset(_scripts())


def _losses() -> dict[str, str]:
    """Of each migration, what is lost by taking it back; each says it as `LOSES`."""
    return {revision: script.module.LOSES for revision, script in _scripts().items()}


@cache
def _scripts() -> "dict[str, Script]":
    from alembic.script import ScriptDirectory

    return {script.revision: script for script in ScriptDirectory.from_config(_config()).walk_revisions()}

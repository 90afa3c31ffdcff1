"""A process's ledger, on the store that the gateway has opened."""

from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter import ids
from xrouter.config.settings import Ledger as LedgerSettings
from xrouter.ledger.books import Books, SqliteBooks
from xrouter.ledger.journal import Journal
from xrouter.ledger.ledger import KEEP_ALL, Ledger
from xrouter.ledger.operations import Prune
from xrouter.ledger.presence import Presence
from xrouter.store.engine import StoreError
from xrouter.world import World

_JOURNALS: Final = ".journal"
_DAY_US: Final = 24 * 3600 * 1_000_000


def open_ledger(
    engine: AsyncEngine, world: World, *, lease_s: float, journal: Path | None = None, retention: Prune = KEEP_ALL
) -> Ledger:
    """The ledger in the database of `engine`. Settlements that it cannot take go to the folder `journal`.

    Without word of it, that is `<database file>.journal` beside SQLite's file, and `<database name>.journal` in the working
    directory for PostgreSQL. Raises StoreError.
    """
    folder = journal or _default_folder(engine)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be made: {error.strerror}") from error
    return Ledger(
        _open_books(engine, world),
        world,
        lease_s=lease_s,
        journal=Journal(folder, ids.time_ordered(world)),
        presence=Presence(folder),
        retention=retention,
    )


def retention_of(settings: LedgerSettings) -> Prune:
    """What the configuration says is to be dropped, and when."""
    return Prune(_days(settings.keep_holds_days), _days(settings.keep_details_days))


def journal_of(settings: LedgerSettings) -> Path | None:
    """The folder that the configuration names."""
    return None if settings.journal is None else Path(settings.journal).absolute()


def _days(days: int | None) -> int | None:
    return None if days is None else days * _DAY_US


def _default_folder(engine: AsyncEngine) -> Path:
    assert engine.url.database is not None
    path = Path(engine.url.database)
    if engine.dialect.name == "postgresql":
        path = Path(path.name)
    path = path.absolute()
    return path.with_name(path.name + _JOURNALS)


def _open_books(engine: AsyncEngine, world: World) -> Books:
    if engine.dialect.name == "postgresql":
        from xrouter.ledger.pg_books import PgBooks  # only who uses it pays for its import
        from xrouter.store.pg_engine import servers_of

        return PgBooks(servers_of(engine), world.now)
    assert engine.url.database is not None
    return SqliteBooks(Path(engine.url.database).absolute(), world.now)

"""A process's ledger, on the store that the gateway has opened."""

from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter import ids
from xrouter.ledger.books import SqliteBooks
from xrouter.ledger.journal import Journal
from xrouter.ledger.ledger import Ledger
from xrouter.store.engine import StoreError
from xrouter.world import World

_JOURNALS: Final = ".journal"


def open_ledger(engine: AsyncEngine, world: World, *, lease_s: float) -> Ledger:
    """The ledger in the database of `engine`. Settlements that it cannot take go to the folder `<database>.journal`.

    Raises StoreError.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database:
        raise StoreError("this version keeps its ledger in SQLite only: store: sqlite:///file")
    database = Path(engine.url.database).absolute()
    folder = database.with_name(database.name + _JOURNALS)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be made: {error.strerror}") from error
    journal = Journal(folder, ids.time_ordered(world))
    return Ledger(SqliteBooks(database, world.now), world, lease_s=lease_s, journal=journal)

"""Whether a SQLite file is whole, as far as can be seen in the time that a gateway's start may take."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.engine import StoreError, describe

LIMIT_S: Final = 2.0  # a gigabyte that is in memory is looked at completely, what is larger or has to be read, in part
_PATIENCE_S: Final = (
    1.0  # readers and the writer do not wait for each other, but after a kill the log is recovered once
)


async def require_sound(engine: AsyncEngine, limit_s: float = LIMIT_S) -> None:
    """Raise StoreError, with what to do, if SQLite finds its file corrupt. PostgreSQL looks after its own."""
    if engine.dialect.name != "sqlite":
        return
    assert engine.url.database is not None
    found = await asyncio.to_thread(_first_problem, Path(engine.url.database), limit_s)
    if found is not None:
        raise StoreError(
            f"the store {describe(engine)} is corrupt ({found}); the gateway does not start on it. Keep it, with all files"
            " whose names begin with its name, and restore a backup (docs/money.md)"
        )


def _first_problem(path: Path, limit_s: float) -> str | None:
    """In SQLite's own words; None if there is none, or none was found before the time was over."""
    with closing(
        sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
    ) as connection:
        timer = threading.Timer(limit_s, connection.interrupt)
        timer.start()
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError:
            return None  # interrupted or locked; what keeps the gateway from its store is said where it uses it
        except sqlite3.DatabaseError as error:
            return str(error)
        finally:
            timer.cancel()
            timer.join()
    return None if found == "ok" else " ".join(str(found).split())

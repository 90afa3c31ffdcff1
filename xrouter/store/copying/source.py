"""The end that is copied from: a SQLite file on which gateways go on to work.

Triggers note the key of every row that changes while the copy is made. Reading the noted rows again gives what they have
become, so the order and the number of their changes do not matter. All of it happens in one thread.
"""

import asyncio
import fcntl
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from xrouter.store.copying.mark import Mark
from xrouter.store.copying.tables import BY_NAME, TABLES, Checksum, CopiedTable, Key, Row
from xrouter.store.engine import MOVED, StoreError

_T = TypeVar("_T")
_LOCK_WAIT_S: Final = 30.0  # for its turn among gateways that write all the time
_AT_ONCE: Final = 5000  # rows of a whole table's reading
_CHANGES: Final = ("insert", "update", "delete")


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows, by table and key, that have changed up to the note `upto`; None: the row is gone."""

    upto: int
    rows: dict[CopiedTable, dict[Key, Row | None]]

    @property
    def count(self) -> int:
        return sum(len(rows) for rows in self.rows.values())


class Source:
    """Raises StoreError for what the file does not let it do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="copying")
        self._connection: sqlite3.Connection | None = None

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process copies this store in the block."""
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise StoreError(f"another process copies a store in the folder {self.path.parent}") from None
        finally:
            os.close(descriptor)

    async def counts(self) -> dict[str, int]:
        """Rows of each table, now."""
        return await self._run(
            lambda db: {table.name: _one(db, f"SELECT count(*) FROM {table.name}") for table in TABLES}
        )

    async def begin(self, mark: Mark) -> None:
        """From here on changes are noted."""
        await self._run(lambda db: _begin(db, mark))

    async def batch(self, table: CopiedTable, after: Key | None, limit: int) -> list[Row]:
        """The next rows in the order of their keys."""
        return await self._run(lambda db: _batch(db, table, after, limit))

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """What is read in the block is one state of the file. Nobody waits for it."""
        await self._run(_begin_reading)
        try:
            yield
        finally:
            await self._run(_roll_back)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Nobody writes to the file while the block runs; whoever wants to waits, and is refused after a second."""
        await self._run(lambda db: db.execute("BEGIN IMMEDIATE"))
        try:
            yield
        finally:
            await self._run(_roll_back)

    async def changes(self, after: int, limit: int) -> Changes:
        """Rows that have changed since the note `after`, as they are now; in a `snapshot` or `locked`."""
        return await self._run(lambda db: _changes(db, after, limit))

    async def checksum(self, table: CopiedTable) -> Checksum:
        return await self._run(lambda db: _checksum(db, table))

    async def leave(self, other: str) -> None:
        """In `locked`: from this commit on every change of a row is refused, in every process."""
        await self._run(lambda db: _leave(db, other))

    async def forget(self) -> None:
        """The store is as it was before a copy, and in use again."""
        await self._run(_forget)

    async def drop_notes(self) -> None:
        await self._run(lambda db: db.execute("DROP TABLE IF EXISTS copy_changes"))

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.path}: {error}") from error

    def _work(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._connection is None:
            uri = f"{self.path.as_uri()}?mode=rw"
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA synchronous=FULL")
        return work(self._connection)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _one(db: sqlite3.Connection, sql: str) -> Any:
    return db.execute(sql).fetchone()[0]


def _begin_reading(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")
    _one(db, "SELECT count(*) FROM sqlite_master")  # from here on it is this state that is read


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


@contextmanager
def _writing(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        _roll_back(db)


def _begin(db: sqlite3.Connection, mark: Mark) -> None:
    with _writing(db):
        _remove(db)
        db.execute("CREATE TABLE copying (copy_id TEXT NOT NULL, phase TEXT NOT NULL, other TEXT NOT NULL)")
        db.execute("INSERT INTO copying VALUES (?, ?, ?)", (mark.copy_id, mark.phase, mark.other))
        db.execute("CREATE TABLE copy_changes (id INTEGER PRIMARY KEY, subject TEXT NOT NULL, key TEXT NOT NULL)")
        for table in TABLES:
            for change, versions in zip(_CHANGES, (("NEW",), ("OLD", "NEW"), ("OLD",)), strict=True):
                keys = " UNION ".join(  # of the old and the new key, which are the same, one
                    f"SELECT '{table.name}', json_array({', '.join(f'{version}.{name}' for name in table.key)})"
                    for version in versions
                )
                db.execute(
                    f"CREATE TRIGGER copying_{table.name}_{change} AFTER {change.upper()} ON {table.name}"
                    f" BEGIN INSERT INTO copy_changes (subject, key) {keys}; END"
                )


def _remove(db: sqlite3.Connection) -> None:
    for table in TABLES:
        for change in _CHANGES:
            db.execute(f"DROP TRIGGER IF EXISTS copying_{table.name}_{change}")
            db.execute(f"DROP TRIGGER IF EXISTS moved_{table.name}_{change}")
    db.execute("DROP TABLE IF EXISTS copy_changes")
    db.execute("DROP TABLE IF EXISTS copying")


def _forget(db: sqlite3.Connection) -> None:
    with _writing(db):
        _remove(db)


def _leave(db: sqlite3.Connection, other: str) -> None:
    """Ends the transaction of `locked`."""
    sentence = f"this store {MOVED} {other}".replace("'", "''")
    db.execute("UPDATE copying SET phase = 'moved'")
    for table in TABLES:
        for change in _CHANGES:
            db.execute(f"DROP TRIGGER copying_{table.name}_{change}")
            db.execute(
                f"CREATE TRIGGER moved_{table.name}_{change} BEFORE {change.upper()} ON {table.name}"
                f" BEGIN SELECT RAISE(ABORT, '{sentence}'); END"
            )
    db.execute("COMMIT")


def _batch(db: sqlite3.Connection, table: CopiedTable, after: Key | None, limit: int) -> list[Row]:
    where = "" if after is None else f" WHERE ({', '.join(table.key)}) > ({', '.join('?' for _ in table.key)})"
    sql = f"{table.select}{where} ORDER BY {', '.join(table.key)} LIMIT {limit}"
    return table.from_sqlite(db.execute(sql, after or ()))


def _changes(db: sqlite3.Connection, after: int, limit: int) -> Changes:
    noted = db.execute(
        "SELECT id, subject, key FROM copy_changes WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ).fetchall()
    rows: dict[CopiedTable, dict[Key, Row | None]] = {}
    for subject, key in {(subject, key) for _, subject, key in noted}:
        table, values = BY_NAME[subject], tuple(json.loads(key))
        found = db.execute(f"{table.select} WHERE {table.by_key}", values).fetchall()
        rows.setdefault(table, {})[values] = table.from_sqlite(found)[0] if found else None
    return Changes(noted[-1][0] if noted else after, rows)


def _checksum(db: sqlite3.Connection, table: CopiedTable) -> Checksum:
    checksum = Checksum()
    cursor = db.execute(table.select)
    while rows := cursor.fetchmany(_AT_ONCE):
        checksum.add(table.from_sqlite(rows))
    return checksum

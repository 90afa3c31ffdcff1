"""The end that is copied to: an empty PostgreSQL database, which gateways leave alone until it is complete.

How far the copy has come is written in the transaction of the rows themselves, so that a copy that was killed goes on where
it stopped.
"""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import asyncpg
from sqlalchemy import Index
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, DropIndex

from xrouter.store.copying.mark import Mark
from xrouter.store.copying.source import Changes
from xrouter.store.copying.tables import TABLES, Checksum, CopiedTable, Key, Row
from xrouter.store.engine import StoreError
from xrouter.store.pg_servers import FAILURES, Connection, PgServers
from xrouter.store.whole_schema import metadata

_AT_ONCE: Final = 5000  # rows of a whole table's reading
# What the migrations put into a fresh schema; everything else means that the database is in use.
_FRESH: Final = {"accounts": "kind = 'system' AND balance_nano = 0 AND held_nano = 0", "revisions": "true"}
_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
# Few rows are looked up in large tables, and the planner's guess how few is not to be relied on.
_BY_INDEX: Final = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"


@dataclass(frozen=True, slots=True)
class Filled:
    """How far a table has come. `after`: the key of its last row."""

    after: Key | None
    rows: int
    done: bool


class Target:
    """Raises StoreError for whatever PostgreSQL does not do; what was not committed then is not there."""

    def __init__(self, url: str) -> None:
        try:
            self._servers = PgServers(url)
        except ValueError as error:
            raise StoreError(str(error)) from None
        self._connection: Connection | None = None

    @cached_property
    def description(self) -> str:
        return self._servers.description

    async def connect(self) -> None:
        async with self._failures():
            self._connection = await self._servers.connect()

    async def aclose(self) -> None:
        if self._connection is not None:
            self._connection.terminate()

    async def used(self) -> list[str]:
        """The tables that have rows which no migration put there."""
        async with self._failures():
            return [
                table.name
                for table in TABLES
                if await self._open.fetchval(
                    f"SELECT EXISTS (SELECT 1 FROM {table.name} WHERE NOT ({_FRESH.get(table.name, 'false')}))"
                )
            ]

    async def begin(self, mark: Mark) -> None:
        """Empty tables without their secondary indexes, in one transaction; from here on gateways wait for the end."""
        async with self._writing():
            await self._open.execute(
                "CREATE TABLE copying (copy_id text NOT NULL, phase text NOT NULL, other text NOT NULL, applied bigint"
                " NOT NULL); CREATE TABLE copy_progress (subject text PRIMARY KEY, after text, rows bigint NOT NULL,"
                " done boolean NOT NULL)"
            )
            await self._open.execute("INSERT INTO copying VALUES ($1, $2, $3, 0)", mark.copy_id, mark.phase, mark.other)
            for name in _FRESH:
                await self._open.execute(f"DELETE FROM {name}")
            for index in _indexes():
                await self._open.execute(str(DropIndex(index, if_exists=True).compile(dialect=_DIALECT)))

    async def filled(self) -> dict[str, Filled]:
        async with self._failures():
            rows = await self._open.fetch("SELECT subject, after, rows, done FROM copy_progress")
        return {
            subject: Filled(None if after is None else tuple(json.loads(after)), count, done)
            for subject, after, count, done in rows
        }

    async def fill(self, table: CopiedTable, rows: Sequence[Row], state: Filled) -> None:
        """The next rows of a table, which is in `state` then."""
        after = None if state.after is None else json.dumps(state.after)
        async with self._writing():
            if rows:
                await self._open.copy_records_to_table(table.name, records=rows, columns=table.columns)
            await self._open.execute(
                "INSERT INTO copy_progress VALUES ($1, $2, $3, $4) ON CONFLICT (subject) DO UPDATE"
                " SET after = excluded.after, rows = excluded.rows, done = excluded.done",
                table.name,
                after,
                state.rows,
                state.done,
            )

    async def index(self, tell: Callable[[str], object]) -> None:
        """Give the tables their secondary indexes back."""
        async with self._failures():
            for index in _indexes():
                tell(str(index.name))
                await self._open.execute(str(CreateIndex(index, if_not_exists=True).compile(dialect=_DIALECT)))
            await self._open.execute("ANALYZE")

    async def applied(self) -> int:
        """Up to which of the source's notes its changes are here."""
        async with self._failures():
            upto: int = await self._open.fetchval("SELECT applied FROM copying")
        return upto

    async def apply(self, changes: Changes) -> None:
        """Make rows what they have become. Done twice, it is done once."""
        async with self._writing():
            await self._open.execute(_BY_INDEX)
            for table, rows in changes.rows.items():
                present = {key: row for key, row in rows.items() if row is not None}
                if table.append_only:
                    for key in await self._rows(table, list(present)):
                        del present[key]
                else:
                    where = " AND ".join(f"{name} = ${place}" for place, name in enumerate(table.key, 1))
                    await self._open.executemany(f"DELETE FROM {table.name} WHERE {where}", list(rows))
                await self._open.copy_records_to_table(
                    table.name, records=list(present.values()), columns=table.columns
                )
            await self._open.execute("UPDATE copying SET applied = $1", changes.upto)

    async def rows(self, table: CopiedTable, keys: Sequence[Key]) -> dict[Key, Row]:
        """Those of the rows that are there."""
        async with self._writing():
            await self._open.execute(_BY_INDEX)
            return await self._rows(table, keys)

    async def checksum(self, table: CopiedTable) -> Checksum:
        checksum = Checksum()
        async with self._failures(), self._open.transaction():
            cursor = await self._open.cursor(table.select)
            while rows := await cursor.fetch(_AT_ONCE):
                checksum.add([tuple(row) for row in rows])
        return checksum

    async def number_on(self) -> None:
        """What is written next gets numbers that follow those of the copied rows."""
        async with self._failures():
            await self._open.execute(
                "SELECT setval(pg_get_serial_sequence('entries', 'id'), greatest((SELECT max(id) FROM entries), 1),"
                " EXISTS (SELECT 1 FROM entries))"
            )

    async def complete(self) -> None:
        """Gateways may use it."""
        async with self._writing():
            await self._open.execute("UPDATE copying SET phase = 'complete'; DROP TABLE IF EXISTS copy_progress")

    @asynccontextmanager
    async def withdrawing(self, other: str) -> AsyncIterator[None]:
        """After the block it takes no changes any more, from whomever; nobody writes to it while the block runs.

        If the block raises, all stays as it was.
        """
        sentence = f"this store was left again for {other}".replace("'", "''").replace("%", "%%")
        async with self._writing():
            await self._open.execute(
                "CREATE OR REPLACE FUNCTION copying_refuse() RETURNS trigger LANGUAGE plpgsql AS"
                f" $refuse$ BEGIN RAISE EXCEPTION '{sentence}'; END $refuse$"
            )
            for table in TABLES:
                await self._open.execute(
                    f"CREATE OR REPLACE TRIGGER copying_refuse BEFORE INSERT OR UPDATE OR DELETE ON {table.name}"
                    " FOR EACH STATEMENT EXECUTE FUNCTION copying_refuse()"
                )
            yield
            await self._open.execute("UPDATE copying SET phase = 'withdrawn'")

    @property
    def _open(self) -> Connection:
        assert self._connection is not None
        return self._connection

    async def _rows(self, table: CopiedTable, keys: Sequence[Key]) -> dict[Key, Row]:
        if not keys:
            return {}
        arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(table.key_types, 1))
        columns = ", ".join(f"found.{name}" for name in table.columns)
        same = " AND ".join(f"found.{name} = asked.{name}" for name in table.key)
        rows = await self._open.fetch(
            f"SELECT {columns} FROM unnest({arrays}) AS asked ({', '.join(table.key)})"
            f" JOIN {table.name} AS found ON {same}",
            *map(list, zip(*keys, strict=True)),
        )
        return {table.key_of(row): row for row in map(tuple, rows)}

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        async with self._failures(), self._open.transaction():
            yield

    @asynccontextmanager
    async def _failures(self) -> AsyncIterator[None]:
        try:
            yield
        except (*FAILURES, asyncpg.DataError) as error:
            told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise StoreError(f"the store {self.description}: {told}") from error


def _indexes() -> list[Index]:
    return [
        index for table in metadata.tables.values() for index in sorted(table.indexes, key=lambda one: str(one.name))
    ]

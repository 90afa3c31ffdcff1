"""Which kind of database a test works on: the suites of tests/store, tests/ledger and tests/auth run on both.

A test names its database by a path, as if it were SQLite's file. On PostgreSQL the path stands for a database of its own on
the session's server. Of either kind it is made as a copy of one that has the schema.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
from kit.postgres_server import PostgresServer, running_postgres

from xrouter.store.engine import create_engine
from xrouter.store.migrate import upgrade

Kind = Literal["sqlite", "postgresql"]
KINDS: Final[tuple[Kind, ...]] = ("sqlite", "postgresql")
_TEMPLATE: Final = "template_schema"
_SQLITE: Final = "sqlite:///"


class Stores:
    """Where the databases of one test are."""

    def __init__(self, server: PostgresServer | None) -> None:
        """`server`: None for SQLite."""
        self.server = server
        self._urls: dict[Path, str] = {}

    def url(self, path: Path) -> str:
        """The store that stands for `path`: the same for the same path."""
        if self.server is None:
            return with_schema(f"{_SQLITE}{path}")
        if path not in self._urls:
            self._urls[path] = self.server.new_database(_TEMPLATE)
        return self._urls[path]

    def empty_url(self, path: Path) -> str:
        """The same without a schema in it."""
        if self.server is None:
            return f"{_SQLITE}{path}"
        self._urls[path] = self.server.new_database()
        return self._urls[path]

    def move(self, path: Path, url: str) -> None:
        """From now on `url` stands for `path`: another way to the same database, or another server that has it."""
        self._urls[path] = url

    def copy(self, path: Path, to: Path) -> None:
        """A copy of the database as it is; on PostgreSQL whoever is connected loses his connection by it."""
        if self.server is None:
            execute(self.url(path), f"VACUUM INTO '{to}'")
            return
        source = self._urls[path].rpartition("/")[2]
        self.server.disconnect(source)
        self._urls[to] = self.server.new_database(source)

    def drop_all(self) -> None:
        for url in self._urls.values():
            if self.server is not None and self.server.is_running:
                self.server.drop_database(url.rpartition("/")[2])


current: Stores = Stores(None)


@contextmanager
def working_on(server: PostgresServer | None) -> Iterator[Stores]:
    """Tests in the block are on PostgreSQL, on `server`, or on SQLite."""
    global current
    before, current = current, Stores(server)
    try:
        yield current
        current.drop_all()
    finally:
        current = before


@contextmanager
def server_with_template() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        server.sql(f"CREATE DATABASE {_TEMPLATE}", database="postgres")
        asyncio.run(_upgraded(server.url(_TEMPLATE)))
        yield server


def with_schema(url: str) -> str:
    """`url`, which has the schema from now on if it is a SQLite file that was not there."""
    if url.startswith(_SQLITE) and not (file := Path(url.removeprefix(_SQLITE))).exists():
        file.write_bytes(_sqlite_template())
    return url


@cache
def _sqlite_template() -> bytes:
    """Its migrations take ten times as long as a copy of what they make."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:  # the caller may be a coroutine
        file = Path(folder) / "template.db"
        thread.submit(asyncio.run, _upgraded(f"{_SQLITE}{file}")).result()
        assert [left.name for left in Path(folder).iterdir()] == [file.name], "its write-ahead log is not in it yet"
        return file.read_bytes()


async def _upgraded(url: str) -> None:
    engine = create_engine(url)
    await upgrade(engine)
    await engine.dispose()


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    """What a query finds, past all of the program's own ways to the database; for coroutines too, which then stand still."""
    if url.startswith(_SQLITE):
        with closing(sqlite3.connect(url.removeprefix(_SQLITE))) as connection:
            return connection.execute(sql).fetchall()

    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, fetch()).result()


def execute(url: str, sql: str) -> None:
    """Statements, in the same way."""
    if url.startswith(_SQLITE):
        with closing(sqlite3.connect(url.removeprefix(_SQLITE))) as connection, connection:
            connection.executescript(sql)
        return

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()

"""Both ends of a copy: what they are, and whether the one can be copied to the other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.copying.mark import Mark, read_mark
from xrouter.store.copying.source import Source
from xrouter.store.copying.target import Target
from xrouter.store.engine import StoreError, create_engine, describe, reason
from xrouter.store.migrate import NEWEST, current

_INTO_EMPTY: Final = "A copy goes into an empty database"


@dataclass(frozen=True, slots=True)
class Ends:
    """`target_is_bare`: it has not even a schema."""

    source: Source
    target: Target
    source_engine: AsyncEngine
    target_engine: AsyncEngine
    source_mark: Mark | None
    target_mark: Mark | None
    target_is_bare: bool

    async def under_way(self) -> Mark | None:
        """The source's mark of a copy to this target that has not come to its end; None if one can begin.

        Raises StoreError if neither is so.
        """
        here, there = self.source_mark, self.target_mark
        if here is not None and here.phase == "moved" and (there is None or there.copy_id != here.copy_id):
            raise StoreError(f"the store {self.source.path} has moved already, to {here.other}")
        if there is None:
            used = [] if self.target_is_bare else await self.target.used()
            if used:
                raise StoreError(f"the store {self.target.description} is not empty: {', '.join(used)}. {_INTO_EMPTY}")
            return None
        if here is None or there.copy_id != here.copy_id:
            raise StoreError(
                f"the store {self.target.description} is of another copy, from {there.other}. {_INTO_EMPTY}"
            )
        if there.phase == "filling":
            return here
        if there.phase == "complete":
            raise StoreError(f"the store {self.source.path} has moved to {self.target.description} already")
        raise StoreError(f"the store {self.target.description} was left again for {there.other}. {_INTO_EMPTY}")


@asynccontextmanager
async def open_ends(url: str, to: str) -> AsyncIterator[Ends]:
    """From the SQLite store `url` to the PostgreSQL database `to`. No other process copies meanwhile. Raises StoreError."""
    source_engine, target_engine = create_engine(url), create_engine(to)
    try:
        async with _open(source_engine, target_engine, to) as ends:
            yield ends
    finally:
        await source_engine.dispose()
        await target_engine.dispose()


@asynccontextmanager
async def _open(source_engine: AsyncEngine, target_engine: AsyncEngine, to: str) -> AsyncIterator[Ends]:
    if source_engine.dialect.name != "sqlite":
        raise StoreError(f"the store {describe(source_engine)} is in PostgreSQL already; a copy is made from SQLite")
    if target_engine.dialect.name != "postgresql":
        raise StoreError("a copy goes into PostgreSQL: --to postgresql://user:password@host/database")
    source, target = Source(sqlite_path(source_engine)), Target(to)
    try:
        with source.alone():
            await _require_schema(source_engine, await _schema(source_engine))
            await target.connect()
            schema = await _schema(target_engine)
            if schema is not None:
                await _require_schema(target_engine, schema)
            elif tables := await _tables(target_engine):
                raise StoreError(f"the store {target.description} is not empty: {', '.join(tables)}")
            yield Ends(
                source=source,
                target=target,
                source_engine=source_engine,
                target_engine=target_engine,
                source_mark=await read_mark(source_engine),
                target_mark=None if schema is None else await read_mark(target_engine),
                target_is_bare=schema is None,
            )
    finally:
        await source.aclose()
        await target.aclose()


def sqlite_path(engine: AsyncEngine) -> Path:
    """The engine's file, which is there."""
    assert engine.url.database is not None
    path = Path(engine.url.database).absolute()
    if not path.is_file():
        raise StoreError(f"there is no store {path}")
    return path


async def _require_schema(engine: AsyncEngine, schema: str | None) -> None:
    if schema != NEWEST:
        raise StoreError(
            f"the store {describe(engine)} has schema {schema or 'none'}, a copy needs {NEWEST} on both sides:"
            " run `xrouter db upgrade` on it"
        )


async def _schema(engine: AsyncEngine) -> str | None:
    try:
        return await current(engine)
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"the store {describe(engine)} cannot be opened: {reason(error)}") from error


async def _tables(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return await connection.run_sync(lambda sync: sorted(inspect(sync).get_table_names()))

"""Writers that come together share a transaction; what goes wrong with one is his own business."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.store.batches import Batches, Work
from xrouter.store.engine import create_engine, writing

pytestmark = pytest.mark.sqlite_only


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(f"sqlite:///{tmp_path}/b.db", serving=True)
    async with writing(engine) as connection:
        await connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    yield engine
    await engine.dispose()


def adds(number: int) -> Work[int]:
    async def work(connection: AsyncConnection) -> int:
        await connection.execute(text(f"INSERT INTO t VALUES ({number})"))
        return number

    return work


async def numbers(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list(await connection.scalars(text("SELECT n FROM t ORDER BY n")))


async def test_sixty_at_once_take_two_transactions(engine: AsyncEngine) -> None:
    """Fails if each has one of his own: then some wait for SQLite's lock longer than a client may."""
    commits: list[object] = []
    event.listen(engine.sync_engine, "commit", commits.append)
    batches = Batches(engine)
    assert await asyncio.gather(*(batches.run(adds(number)) for number in range(60))) == list(range(60))
    assert len(commits) <= 2
    assert await numbers(engine) == list(range(60))


async def test_one_that_the_database_refuses_is_refused_alone(engine: AsyncEngine) -> None:
    batches = Batches(engine)
    results = await asyncio.gather(*(batches.run(adds(n)) for n in (1, 2, 1, 3)), return_exceptions=True)
    assert [getattr(result, "orig", result).__class__ for result in results] == [int, int, sqlite3.IntegrityError, int]
    assert isinstance(results[2], IntegrityError)
    assert await numbers(engine) == [1, 2, 3]


async def test_while_the_database_is_locked_all_are_told_in_time_and_the_next_succeed(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    batches = Batches(engine)
    with closing(sqlite3.connect(tmp_path / "b.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = asyncio.get_running_loop().time()
        results: list[Any] = await asyncio.gather(*(batches.run(adds(n)) for n in range(40)), return_exceptions=True)
        assert {type(result) for result in results} == {OperationalError}
        assert asyncio.get_running_loop().time() - began < 10  # 1 s by itself; 40 one after the other would take 40 s
    assert await batches.run(adds(7)) == 7
    assert await numbers(engine) == [7]


async def test_what_is_asked_for_happens_in_order_whoever_still_waits(engine: AsyncEngine) -> None:
    batches = Batches(engine)

    async def forget(connection: AsyncConnection) -> None:
        await connection.execute(text("DELETE FROM t WHERE n = 1"))

    tasks = [asyncio.create_task(batches.run(adds(number))) for number in (1, 2)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await batches.run(forget)
    await batches.aclose()
    assert await numbers(engine) == [2]

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.engine import StoreError, create_engine, describe, reason, writing
from xrouter.store.schema import revisions


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "is written sqlite"),
        ("mysql://user:hunter2@host/db", "not mysql"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite://", "in memory"),
        ("sqlite:////no/such/folder/x.db", "/no/such/folder does not exist"),
    ],
)
def test_a_url_that_cannot_work_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as caught:
        create_engine(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.sqlite_only
async def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = create_engine("sqlite:///here.db")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()
    assert (tmp_path / "here.db").exists()
    assert describe(engine) == "sqlite:///here.db"


@pytest.mark.sqlite_only
async def test_commits_are_durable_and_readers_do_not_wait(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        pragmas = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


async def test_a_reader_sees_one_state_for_its_whole_transaction_while_another_writes(engine: AsyncEngine) -> None:
    query = select(revisions.c.value)
    async with engine.connect() as reader:
        before = await reader.scalar(query)
        async with writing(engine) as writer:
            await writer.execute(revisions.update().values(value=99))
        assert await reader.scalar(query) == before
    async with engine.connect() as reader:
        assert await reader.scalar(query) == 99


async def test_writers_take_turns_even_if_each_reads_first(engine: AsyncEngine) -> None:
    async def increment() -> None:
        async with writing(engine) as connection:
            value = (await connection.execute(select(revisions.c.value))).scalar_one()
            await connection.execute(revisions.update().values(value=value + 1))

    await asyncio.gather(*(increment() for _ in range(30)))
    async with engine.connect() as connection:
        assert await connection.scalar(select(revisions.c.value)) == 30


async def test_a_transaction_that_raises_leaves_nothing(engine: AsyncEngine) -> None:
    async def change_and_fail() -> None:
        async with writing(engine) as connection:
            await connection.execute(revisions.update().values(value=5))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await change_and_fail()
    async with engine.connect() as connection:
        assert await connection.scalar(select(revisions.c.value)) == 0


async def test_the_reason_of_a_failure_names_no_values(engine: AsyncEngine, store_kind: str) -> None:
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text("SELECT :secret FROM nowhere"), {"secret": "xr-free-canary"})
    assert (
        reason(caught.value)
        == {
            "sqlite": "OperationalError: no such table: nowhere",
            "postgresql": 'ProgrammingError: relation "nowhere" does not exist',
        }[store_kind]
    )
    assert "canary" not in str(caught.value)

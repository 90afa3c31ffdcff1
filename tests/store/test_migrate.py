import asyncio
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from kit import stores
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store import migrate
from xrouter.store.engine import StoreError, create_engine, writing
from xrouter.store.migrate import NEWEST, current, open_store, require_current, upgrade
from xrouter.store.whole_schema import metadata


async def test_the_migrations_build_the_schema(engine: AsyncEngine) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    async with writing(engine) as connection:
        await connection.execute(text("ALTER TABLE revisions RENAME COLUMN value TO amount"))
        assert await connection.run_sync(differences) != []  # the comparison does compare


@pytest.mark.sqlite_only
async def test_an_empty_sqlite_database_is_made_ready_by_whoever_opens_it(tmp_path: Path) -> None:
    engine = await open_store(f"sqlite:///{tmp_path / 'new.db'}")
    assert await current(engine) == NEWEST
    await engine.dispose()


async def test_an_upgrade_of_a_current_schema_changes_nothing(engine: AsyncEngine) -> None:
    assert await upgrade(engine) == (NEWEST, NEWEST)


async def test_a_schema_that_is_behind_is_refused_with_the_command_that_helps(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(
        StoreError, match=f"has schema none, this version needs {NEWEST}; run `xrouter db upgrade -c FILE`"
    ):
        await require_current(engine)
    with pytest.raises(StoreError, match="run `xrouter db upgrade"):
        await open_store(stores.current.url(tmp_path / "keys.db"))


async def test_a_schema_from_the_future_is_refused_and_not_touched(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (require_current, upgrade):
        with pytest.raises(StoreError, match=r"newer version of xrouter \(schema 9999"):
            await attempt(engine)
    assert await current(engine) == "9999"


@pytest.mark.sqlite_only
async def test_a_sqlite_that_is_too_old_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first batch of two would be what tells it."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(StoreError, match=r"3\.33 or newer is needed"):
        await open_store(f"sqlite:///{tmp_path / 'new.db'}")


@pytest.mark.sqlite_only
async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("not a database, but long enough to be looked at as one\n" * 100)
    with pytest.raises(StoreError, match="cannot be opened: DatabaseError: file is not a database"):
        await open_store(f"sqlite:///{path}")


async def test_a_failing_migration_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    engine = create_engine(stores.current.empty_url(tmp_path / "half.db"))
    async with writing(engine) as connection:
        await connection.execute(
            text("CREATE TABLE revisions (name TEXT)")
        )  # the migration's second table is in the way
    with pytest.raises(Exception, match="already exists"):
        await upgrade(engine)
    async with engine.connect() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["revisions"]
    await engine.dispose()


async def test_processes_that_meet_a_fresh_database_at_once_all_start(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from xrouter.store.engine import create_engine\n"
        "from xrouter.store.migrate import open_store, upgrade\n"
        "sys.stdin.readline()\n"
        "async def main():\n"
        "    if sys.argv[1].startswith('postgresql:'):\n"  # there nobody is given a schema unasked
        "        engine = create_engine(sys.argv[1])\n"
        "        await upgrade(engine)\n"
        "        await engine.dispose()\n"
        "    await (await open_store(sys.argv[1])).dispose()\n"
        "asyncio.run(main())\n"
    )
    url = stores.current.empty_url(tmp_path / "race.db")
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, url, stdin=pipe, stdout=pipe, stderr=pipe)
        for _ in range(4)
    ]
    results = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [(process.returncode, error.decode()) for process, (_, error) in zip(processes, results, strict=True)] == [
        (0, "")
    ] * len(processes)


def test_the_newest_version_is_the_last_migration() -> None:
    folder = Path(migrate.__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.NEWEST

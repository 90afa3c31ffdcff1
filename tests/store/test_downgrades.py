"""Every migration up, down and up again, on a database with rows in it; what a way back loses is said."""

import asyncio
from pathlib import Path

import pytest
from kit import stores
from kit.keys import HandWorld
from kit.money import ACCOUNT, assert_proven, grant, settlement
from sqlalchemy import MetaData, text

from xrouter.auth.issue import issue
from xrouter.ledger.opening import open_ledger
from xrouter.store.engine import StoreError, create_engine, writing
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import NEWEST, _known, current, downgrade, losses, open_store, upgrade

EARLIER = sorted(_known() - {NEWEST})


def shape(url: str) -> list[tuple[str, ...]]:
    """Everything that the schema has, as the database itself tells it."""
    if url.startswith("sqlite:"):
        # The order of rows is that of creation; internal indexes have no text.
        return sorted(stores.rows(url, "SELECT type, name, coalesce(sql, '') FROM sqlite_master"))
    queries = (
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public'",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
        "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT proname, '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    )
    return sorted(tuple(map(str, row)) for query in queries for row in stores.rows(url, query))


async def fill(url: str, folder: Path) -> None:
    """Keys of which one has replaced another, charges of both, a hold that is open."""
    world = HandWorld()
    engine = await open_store(url)
    keys = KeyStore(engine, world)
    first, second, other = [(await issue(keys, NewKey(name=name))).key.hash for name in ("first", "second", "other")]
    async with writing(engine) as connection:
        await connection.execute(
            text("UPDATE api_keys SET rotated_from = :a WHERE hash = :b"), {"a": first, "b": second}
        )
        await connection.execute(text("INSERT INTO key_roots VALUES (:b, :a)"), {"a": first, "b": second})
    ledger = open_ledger(engine, world, lease_s=60, journal=folder / "journal")
    await ledger.start()
    await ledger.transfer(grant(10**9))
    for number, key in enumerate((first, second, other)):
        await ledger.hold(f"g{number}", ACCOUNT, key, wanted_nano=9_000, least_nano=9_000)
        await ledger.settle(settlement(f"g{number}", 1_000 * 10**number, key=key), delivered=True)
    await ledger.hold("open", ACCOUNT, second, wanted_nano=9_000, least_nano=9_000)
    await ledger.aclose()
    await engine.dispose()


async def test_each_schema_taken_back_is_the_one_that_it_was(tmp_path: Path) -> None:
    """Fails where a downgrade leaves a table, an index, a trigger, a function, or makes one anew that differs."""
    shapes: dict[str, list[tuple[str, ...]]] = {}
    for to in EARLIER:
        url = stores.current.empty_url(tmp_path / f"up{to}.db")
        await climb(url, to)
        shapes[to] = shape(url)
    url = stores.current.empty_url(tmp_path / "down.db")
    engine = create_engine(url)
    await upgrade(engine)
    newest = shape(url)
    await fill(url, tmp_path)
    for to in reversed(EARLIER):
        await downgrade(engine, to)
        assert await current(engine) == to
        assert shape(url) == shapes[to], to
    await upgrade(engine)
    assert shape(url) == newest
    await engine.dispose()


async def climb(url: str, to: str) -> None:
    from alembic import command

    from xrouter.store.migrate import _config

    def run(connection: object) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)

    engine = create_engine(url)
    async with writing(engine) as connection:
        await connection.run_sync(run)
    await engine.dispose()


async def everything(url: str) -> dict[str, list[tuple[object, ...]]]:
    engine = create_engine(url)
    metadata = MetaData()
    async with engine.connect() as connection:
        await connection.run_sync(metadata.reflect)
    await engine.dispose()
    return {name: sorted(stores.rows(url, f"SELECT * FROM {name}"), key=str) for name in metadata.tables}


@pytest.mark.parametrize("to", [to for to in EARLIER if to >= "0002"])
async def test_money_is_whole_after_the_way_back_and_forth(tmp_path: Path, to: str) -> None:
    """Fails if what was spent in a chain of rotations, or on a day, is lost or counted twice."""
    url = stores.current.empty_url(tmp_path / "money.db")
    engine = create_engine(url)
    await upgrade(engine)
    await fill(url, tmp_path)
    before = await everything(url)
    await downgrade(engine, to)
    await upgrade(engine)
    await assert_proven(engine)
    await engine.dispose()
    assert await everything(url) == before


async def test_before_the_chains_the_newest_key_has_what_its_chain_has_spent(tmp_path: Path) -> None:
    url = stores.current.empty_url(tmp_path / "money.db")
    engine = create_engine(url)
    await upgrade(engine)
    await fill(url, tmp_path)
    await downgrade(engine, "0004")
    await engine.dispose()
    assert stores.rows(url, "SELECT name, used_nano FROM key_usage JOIN api_keys ON hash = key_hash ORDER BY name") == [
        ("other", 100_000),
        ("second", 11_000),
    ]
    assert stores.rows(url, "SELECT * FROM usage_days") == []
    assert stores.rows(url, "SELECT sum(charged_nano) FROM usage_hours") == [(111_000,)]


def test_what_each_step_loses_is_said() -> None:
    assert all(sentence for sentence in losses(NEWEST, "0001"))
    assert len(losses(NEWEST, "0001")) == len(EARLIER)


@pytest.mark.parametrize(("found", "to"), [(NEWEST, NEWEST), (NEWEST, "9999"), (None, "0001"), ("0001", "0002")])
def test_there_is_no_way_back_to_what_is_not_earlier(found: str | None, to: str) -> None:
    with pytest.raises(StoreError, match="there is no way back to"):
        losses(found, to)


async def test_a_database_between_two_versions_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    """And of two who then run it at once, one finds that it is done. Fails without their turn: a table is there already."""
    url = stores.current.empty_url(tmp_path / "between.db")
    await climb(url, EARLIER[-1])
    with pytest.raises(StoreError, match=f"has schema {EARLIER[-1]}.* run `xrouter db upgrade"):
        await open_store(url)
    engines = [create_engine(url) for _ in range(2)]
    results = await asyncio.gather(*(upgrade(engine) for engine in engines))
    assert sorted(map(str, results)) == sorted(map(str, [(EARLIER[-1], NEWEST), (NEWEST, NEWEST)]))
    for engine in (*engines, await open_store(url)):
        await engine.dispose()

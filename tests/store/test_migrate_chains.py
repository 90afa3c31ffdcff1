"""Schema 0005 on a database that an older version has filled: chains of rotations are joined, hours make days."""

from pathlib import Path

from kit import stores
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.engine import create_engine, writing
from xrouter.store.migrate import _config, upgrade

DAY = 20_000  # a Friday, 2024-10-04


async def made_by_0004(url: str) -> AsyncEngine:
    from alembic import command

    engine = create_engine(url)

    def to_0004(connection: object) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")

    async with writing(engine) as connection:
        await connection.run_sync(to_0004)
    return engine


async def test_spending_of_a_chain_is_added_up_window_by_window(tmp_path: Path, store_kind: str) -> None:
    """`a` → `b` → `c`, of which `b` was deleted with its predecessor; `x` → `y`; `z` alone.

    Fails where windows that the newest key has left are added too, or where only direct predecessors are looked at.
    """
    url = stores.current.empty_url(tmp_path / "old.db")
    engine = await made_by_0004(url)
    keys = [("b", "a"), ("c", "b"), ("x", None), ("y", "x"), ("z", None)]
    usage = [
        ("a", DAY - 40, 1),
        ("b", DAY - 3, 10),
        ("c", DAY, 100),
        ("x", DAY, 1000),
        ("y", DAY, 10_000),
        ("z", DAY, 5),
    ]
    async with writing(engine) as connection:
        for key, before in keys:
            await connection.execute(
                text(
                    "INSERT INTO api_keys (hash, label, name, account, management, disabled, created_at_us, rotated_from)"
                    " VALUES (:key, '', '', '', false, false, 0, :before)"
                ),
                {"key": key, "before": before},
            )
        for key, day, nano in usage:
            await connection.execute(
                text("INSERT INTO key_usage VALUES (:key, :nano, :nano, :day, :nano, :nano, :nano)"),
                {"key": key, "day": day, "nano": nano},
            )
        for hour, nano in ((DAY * 24, 3), (DAY * 24 + 23, 4), (DAY * 24 + 24, 5)):
            await connection.execute(
                text("INSERT INTO usage_hours VALUES (:hour, 'acme', 'z', 'm', 'u', 1, 1, 1, 1, 1, :nano, 0)"),
                {"hour": hour, "nano": nano},
            )
    await upgrade(engine)
    await engine.dispose()
    assert stores.rows(url, "SELECT key_hash, root FROM key_roots ORDER BY key_hash") == [
        ("b", "a"),
        ("c", "a"),
        ("y", "x"),
    ]
    assert stores.rows(
        url,
        "SELECT key_hash, held_nano, used_nano, day, day_nano, week_nano, month_nano FROM key_usage ORDER BY key_hash",
    ) == [
        ("a", 111, 111, DAY, 100, 110, 110),
        ("x", 11_000, 11_000, DAY, 11_000, 11_000, 11_000),
        ("z", 5, 5, DAY, 5, 5, 5),
    ]
    assert stores.rows(url, "SELECT day, requests, charged_nano FROM usage_days ORDER BY day") == [
        (DAY, 2, 7),
        (DAY + 1, 1, 5),
    ]

"""What keys spend is counted for a whole chain of rotations; sums of days for all days; retention.

Counters of keys that were rotated before are added up. A window that the newest of them is no longer in counts for nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
LOSES = (
    "what is dropped is not known any more, and the proof may call it missing; what the keys of a chain of rotations have"
    " spent counts for the newest of them"
)

_PLACE: Final = "account, key_hash, model, upstream"
_SUMMED: Final = (
    "requests, input_tokens, output_tokens, cached_tokens, reasoning_tokens, charged_nano, provider_cost_nano"
)
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()

_keys: Final = sa.table("api_keys", sa.column("hash"), sa.column("rotated_from"))
_usage: Final = sa.table(
    "key_usage",
    *(sa.column(name) for name in ("key_hash", "held_nano", "used_nano", "day", "day_nano", "week_nano", "month_nano")),
)


_roots_table: Final = sa.table("key_roots", sa.column("key_hash"), sa.column("root"))
_holds: Final = sa.table("holds", sa.column("key_hash"), sa.column("amount_nano"), sa.column("state"))


def upgrade() -> None:
    roots = op.create_table(
        "key_roots",
        sa.Column("key_hash", sa.String(64), nullable=False),
        sa.Column("root", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name="pk_key_roots"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "retention",
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("upto", sa.String(30), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_retention"),
        sqlite_with_rowid=False,
    )
    found = _roots({row.hash: row.rotated_from for row in op.get_bind().execute(sa.select(_keys))})
    if found:
        op.bulk_insert(roots, [{"key_hash": key_hash, "root": root} for key_hash, root in found.items()])
        _join_usage(found)
    _fill_days()
    _show_each_request_once()


def downgrade() -> None:
    _part_usage()
    _empty_days()
    _show_days_beside_hours()
    op.drop_table("retention")
    op.drop_table("key_roots")


def _roots(rotated_from: Mapping[str, str | None]) -> dict[str, str]:
    """Of each key that has replaced another, the first of its chain; that one may have been deleted since."""
    roots: dict[str, str] = {}
    for key_hash, before in rotated_from.items():
        root = before
        while root is not None and (earlier := rotated_from.get(root)) is not None:
            root = earlier
        if root is not None:
            roots[key_hash] = root
    return roots


def _join_usage(roots: Mapping[str, str]) -> None:
    connection = op.get_bind()
    chains: dict[str, list[Any]] = {}
    for row in connection.execute(sa.select(_usage)):
        chains.setdefault(roots.get(row.key_hash, row.key_hash), []).append(row)
    for root, rows in chains.items():
        names = [row.key_hash for row in rows]
        if names != [root]:
            connection.execute(sa.delete(_usage).where(_usage.c.key_hash.in_(names)))
            connection.execute(sa.insert(_usage).values(key_hash=root, **_together(rows)))


def _together(rows: Sequence[Any]) -> dict[str, int]:
    day = max(row.day for row in rows)
    return {
        "held_nano": sum(row.held_nano for row in rows),
        "used_nano": sum(row.used_nano for row in rows),
        "day": day,
        "day_nano": sum(row.day_nano for row in rows if row.day == day),
        "week_nano": sum(row.week_nano for row in rows if _week(row.day) == _week(day)),
        "month_nano": sum(row.month_nano for row in rows if _month(row.day) == _month(day)),
    }


def _part_usage() -> None:
    """The counters of a chain go to its newest key, which is the one in use; each key's own holds stay its own."""
    connection = op.get_bind()
    replaced = set(connection.scalars(sa.select(_keys.c.rotated_from)))
    members = connection.execute(sa.select(_roots_table)).all()
    newest = {row.root: row.key_hash for row in members if row.key_hash not in replaced}
    for row in connection.execute(sa.select(_usage).where(_usage.c.key_hash.in_(newest))).all():
        connection.execute(sa.delete(_usage).where(_usage.c.key_hash == row.key_hash))
        chain = [row.key_hash, *(member.key_hash for member in members if member.root == row.key_hash)]
        held = {key_hash: connection.scalar(_held_by(key_hash)) or 0 for key_hash in chain}
        nothing = {"used_nano": 0, "day": row.day, "day_nano": 0, "week_nano": 0, "month_nano": 0}
        for key_hash in chain:
            counters = {name: getattr(row, name) for name in nothing} if key_hash == newest[row.key_hash] else nothing
            if counters is not nothing or held[key_hash]:
                connection.execute(sa.insert(_usage).values(key_hash=key_hash, held_nano=held[key_hash], **counters))


def _held_by(key_hash: str) -> sa.Select[tuple[int]]:
    return sa.select(sa.func.sum(_holds.c.amount_nano)).where(_holds.c.key_hash == key_hash, _holds.c.state == "open")


def _week(day: int) -> int:
    return (day + 3) // 7


def _month(day: int) -> tuple[int, int]:
    on = date.fromordinal(_EPOCH_ORDINAL + day)
    return on.year, on.month


def _fill_days() -> None:
    """Days that were made of hours before are in the table already; the hours that are left are added to it."""
    op.execute(
        f"INSERT INTO usage_days (day, {_PLACE}, {_SUMMED})"  # noqa: S608  names of the schema
        f" SELECT hour / 24, {_PLACE}, {', '.join(f'sum({name})' for name in _SUMMED.split(', '))}"
        f" FROM usage_hours WHERE true GROUP BY hour / 24, {_PLACE}"
        f" ON CONFLICT (day, {_PLACE}) DO UPDATE SET "
        + ", ".join(f"{name} = usage_days.{name} + excluded.{name}" for name in _SUMMED.split(", "))
    )
    op.create_index("ix_usage_days_key_hash_day", "usage_days", ["key_hash", "day"])


def _empty_days() -> None:
    """Days are those whose hours are gone, and nothing else."""
    op.drop_index("ix_usage_days_key_hash_day", "usage_days")
    names = _PLACE.split(", ")
    same = " AND ".join(f"usage_hours.{name} = usage_days.{name}" for name in names)
    hours = f"FROM usage_hours WHERE hour / 24 = day AND {same}"
    for name in reversed(_SUMMED.split(", ")):  # `requests` last: what has none left is then deleted
        op.execute(f"UPDATE usage_days SET {name} = {name} - coalesce((SELECT sum(usage_hours.{name}) {hours}), 0)")  # noqa: S608
    op.execute("DELETE FROM usage_days WHERE requests = 0")


def _show_days_beside_hours() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    hours, days = _usage_columns(sqlite)
    op.execute("DROP VIEW v_usage")
    op.execute(f"CREATE VIEW v_usage AS {hours} UNION ALL {days}")
    if not sqlite:
        _forbid_changes_of_usage()


def _show_each_request_once() -> None:
    """`v_usage` shows hours, and days only where no hours are left of them."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    hours, days = _usage_columns(sqlite)
    op.execute("DROP VIEW v_usage")
    op.execute(
        f"CREATE VIEW v_usage AS {hours} UNION ALL {days}"  # noqa: S608
        " WHERE day < coalesce((SELECT min(hour) FROM usage_hours) / 24, day + 1)"
    )
    if not sqlite:
        op.execute(
            "CREATE OR REPLACE FUNCTION view_is_read_only() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'cannot modify % because it is a view', TG_TABLE_NAME; END $$"
        )
        _forbid_changes_of_usage()


def _usage_columns(sqlite: bool) -> tuple[str, str]:
    """What `v_usage` selects from the hours, and from the days."""
    tokens = "input_tokens, output_tokens, cached_tokens, reasoning_tokens"
    amounts = ", ".join(f"{_credits(f'{name}_nano', sqlite)} AS {name}" for name in ("charged", "provider_cost"))
    columns = f"account, key_hash, model, upstream, requests, {tokens}, {amounts}"
    return (
        f"SELECT {_time('hour * 3600000000', sqlite)} AS began_at, 'hour' AS period, {columns} FROM usage_hours",  # noqa: S608
        f"SELECT {_time('day * 86400000000', sqlite)}, 'day', {columns} FROM usage_days",  # noqa: S608
    )


def _forbid_changes_of_usage() -> None:
    op.execute(
        "CREATE TRIGGER v_usage_forbid_change INSTEAD OF INSERT OR UPDATE OR DELETE ON v_usage"
        " FOR EACH ROW EXECUTE FUNCTION view_is_read_only()"
    )


def _credits(nano: str, sqlite: bool) -> str:
    if not sqlite:
        return f"({nano} / 1000000000.0::numeric)::numeric(28, 9)"
    sign = f"CASE WHEN {nano} < 0 THEN '-' ELSE '' END"
    return f"{sign} || printf('%d.%09d', abs({nano}) / 1000000000, abs({nano}) % 1000000000)"


def _time(us: str, sqlite: bool) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', ({us}) / 1000000, 'unixepoch')" if sqlite else f"to_timestamp(({us}) / 1e6)"

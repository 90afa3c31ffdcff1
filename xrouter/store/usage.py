"""Reading what accounts and keys have put in and spent, from sums that the ledger keeps: never from all generations."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, case, func, literal_column, null, select
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.key import LimitReset
from xrouter.store.ledger_rows import KeyUsage
from xrouter.store.schema import accounts, entries, generations, key_usage, usage_hours

_HOURS: Final = 24
_GIVEN: Final[ColumnElement[bool]] = literal_column(
    "kind IN ('grant', 'adjustment')"
)  # in the words of the partial index


@dataclass(frozen=True, slots=True)
class Credits:
    """What an account was given and what it spent of that, refunds taken off."""

    given_nano: int
    used_nano: int


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """Sums of one day (since 1970, UTC), model and upstream ('' where none served); `account` if they were split by it."""

    day: int
    account: str | None
    model: str
    upstream: str
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    charged_nano: int


async def read_credits(engine: AsyncEngine, account: str | None) -> Credits | None:
    """Of one account, or of all owners' together; None if there is no such account.

    One statement, so one moment: what was spent is what was given less what is left, since a balance is the sum of its
    entries.
    """
    owners = accounts.c.kind == "owner"
    balance = select(func.sum(accounts.c.balance_nano)).where(owners)
    into, out = entries.c.credit_account, entries.c.debit_account
    given: ColumnElement[int]
    if account is None:
        given = func.sum(case((into.startswith("@"), -entries.c.amount_nano), else_=entries.c.amount_nano))
        total = select(func.coalesce(given, 0)).where(_GIVEN)
    else:
        balance = balance.where(accounts.c.name == account)
        given = func.sum(case((out == account, -entries.c.amount_nano), else_=entries.c.amount_nano))
        total = select(func.coalesce(given, 0)).where(_GIVEN, (into == account) | (out == account))
    async with engine.connect() as connection:
        left, put_in = (await connection.execute(select(balance.scalar_subquery(), total.scalar_subquery()))).one()
    if left is None:
        return None if account is not None else Credits(0, 0)
    return Credits(int(put_in), int(put_in) - int(left))


async def read_activity(
    engine: AsyncEngine,
    *,
    first_day: int,
    last_day: int,
    account: str | None,
    key_hash: str | None,
    by_account: bool = False,
) -> list[ActivityRow]:
    """Sums of whole days, newest first. Days more than 62 days old are in another table and not read."""
    hours = usage_hours.c
    day = hours.hour // _HOURS
    summed = ("requests", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "charged_nano")
    owner = hours.account if by_account else null()
    groups = (day, owner, hours.model, hours.upstream) if by_account else (day, hours.model, hours.upstream)
    query = (
        select(day, owner, hours.model, hours.upstream, *(func.sum(hours[name]) for name in summed))
        .where(hours.hour >= first_day * _HOURS, hours.hour < (last_day + 1) * _HOURS)
        .group_by(*groups)
        .order_by(day.desc(), *groups[1:])
    )
    if account is not None:
        query = query.where(hours.account == account)
    if key_hash is not None:
        query = query.where(hours.key_hash == key_hash)
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    return [ActivityRow(*row) for row in rows]


async def read_requests_of_day(engine: AsyncEngine, *, day: int, account: str, models: Collection[str]) -> int:
    """How many requests for any of `models` the account has made on that day so far."""
    hours = usage_hours.c
    query = select(func.coalesce(func.sum(hours.requests), 0)).where(
        hours.hour >= day * _HOURS,
        hours.hour < (day + 1) * _HOURS,
        hours.account == account,
        hours.model.in_(sorted(models)),
    )
    async with engine.connect() as connection:
        return int(await connection.scalar(query) or 0)


@dataclass(frozen=True, slots=True)
class KeyLimit:
    """The part of a key that says how much it may spend."""

    hash: str
    limit_nano: int | None
    limit_reset: LimitReset | None


async def read_key_usage(engine: AsyncEngine, keys: Sequence[KeyLimit], day: int) -> list[KeyUsage]:
    """What each key has spent, in their order; the windows are those of the day that was last written, not of `day`.

    A key that has spent nothing has no row: its windows are those of `day`.
    """
    columns = ("held_nano", "used_nano", "day", "day_nano", "week_nano", "month_nano")
    query = select(key_usage.c.key_hash, *(key_usage.c[name] for name in columns)).where(
        key_usage.c.key_hash.in_([key.hash for key in keys])
    )
    async with engine.connect() as connection:
        found = {row[0]: row for row in await connection.execute(query)}
    usages = []
    for key in keys:
        _, held, used, last_day, of_day, of_week, of_month = found.get(key.hash, (key.hash, 0, 0, day, 0, 0, 0))
        usages.append(
            KeyUsage(key.hash, held, used, last_day, of_day, of_week, of_month, key.limit_nano, key.limit_reset)
        )
    return usages


async def read_last_used(engine: AsyncEngine, key_hashes: Sequence[str]) -> dict[str, int]:
    """When each key's last settled request came, microseconds; keys that have none are left out."""
    last = (
        select(generations.c.created_at_us)
        .where(generations.c.key_hash == key_usage.c.key_hash)
        .order_by(generations.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = select(key_usage.c.key_hash, last).where(key_usage.c.key_hash.in_(list(key_hashes)))
    async with engine.connect() as connection:
        return {key_hash: at_us for key_hash, at_us in await connection.execute(query) if at_us is not None}

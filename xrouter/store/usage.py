"""Reading what accounts and keys have put in and spent, from sums that the ledger keeps: never from all generations."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, case, func, literal_column, null, select
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.ids import first_generation_id
from xrouter.store.key import Key
from xrouter.store.ledger_rows import KeyTerms, KeyUsage
from xrouter.store.schema import accounts, api_keys, entries, generations, key_roots, key_usage, usage_days

_DAY_US: Final = 24 * 3600 * 1_000_000
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
    provider_cost_nano: int


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
    """Sums of whole days, newest first."""
    days = usage_days.c
    summed = ("requests", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "charged_nano",
              "provider_cost_nano")  # fmt: skip
    owner = days.account if by_account else null()
    groups = (days.day, owner, days.model, days.upstream) if by_account else (days.day, days.model, days.upstream)
    query = (
        select(days.day, owner, days.model, days.upstream, *(func.sum(days[name]) for name in summed))
        .where(days.day.between(first_day, last_day))
        .group_by(*groups)
        .order_by(days.day.desc(), *groups[1:])
    )
    if account is not None:
        query = query.where(days.account == account)
    if key_hash is not None:
        query = query.where(days.key_hash == key_hash)
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    return [ActivityRow(*row) for row in rows]


async def read_requests_of_day(engine: AsyncEngine, *, day: int, account: str, models: Collection[str]) -> int:
    """How many requests for any of `models` the account has made on that day so far."""
    days = usage_days.c
    query = select(func.coalesce(func.sum(days.requests), 0)).where(
        days.day == day, days.account == account, days.model.in_(sorted(models))
    )
    async with engine.connect() as connection:
        return int(await connection.scalar(query) or 0)


@dataclass(frozen=True, slots=True)
class KeySpending:
    """A key's terms, and what its chain of rotations has spent."""

    terms: KeyTerms
    usage: KeyUsage


async def read_spending(engine: AsyncEngine, keys: Sequence[Key], day: int) -> list[KeySpending]:
    """Of each key, in their order; the windows are those of the day that was last written, not of `day`.

    A chain that has spent nothing has no row: its windows are those of `day`.
    """
    hashes = [key.hash for key in keys]
    columns = ("held_nano", "used_nano", "day", "day_nano", "week_nano", "month_nano")
    async with engine.connect() as connection:
        rooted = await connection.execute(select(key_roots).where(key_roots.c.key_hash.in_(hashes)))
        roots: dict[str, str] = dict(rooted.all())
        query = select(key_usage.c.key_hash, *(key_usage.c[name] for name in columns)).where(
            key_usage.c.key_hash.in_([roots.get(one, one) for one in hashes])
        )
        found = {row[0]: row for row in await connection.execute(query)}
    spending = []
    for key in keys:
        root = roots.get(key.hash, key.hash)
        usage = KeyUsage(*found.get(root, (root, 0, 0, day, 0, 0, 0)))
        spending.append(KeySpending(KeyTerms(root, key.limit_nano, key.limit_reset), usage))
    return spending


async def read_last_used(engine: AsyncEngine, key_hashes: Sequence[str]) -> dict[str, int]:
    """When each key's last settled request came, microseconds; keys that have none are left out.

    Found by way of the last day with a sum: never by a walk through all generations.
    """
    days, keys, rows = usage_days.c, api_keys.c, generations.c
    last_day = select(func.max(days.day)).where(days.key_hash == keys.hash).scalar_subquery()
    async with engine.connect() as connection:
        query = select(keys.hash, keys.account, last_day).where(keys.hash.in_(list(key_hashes)))
        used = [row for row in await connection.execute(query) if row[2] is not None]
        found: dict[str, int] = {}
        for key_hash, account, day in used:
            last = (
                select(rows.created_at_us)
                .where(rows.account == account, rows.key_hash == key_hash)
                .where(rows.id < first_generation_id((day + 1) * _DAY_US))
                .order_by(rows.id.desc())
                .limit(1)
            )
            at_us = await connection.scalar(last)
            if at_us is not None:
                found[key_hash] = at_us
    return found

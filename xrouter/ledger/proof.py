"""`xrouter db check`: the proof that the ledger is right, from its rows alone.

Each check says what must hold and names the rows where it does not. All of them read one snapshot, so a gateway may go on
working meanwhile.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Subquery, and_, case, func, literal, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.errors import UpstreamProtocolError
from xrouter.events import Usage
from xrouter.ledger.prices import Rates, read_sheet
from xrouter.ledger.windows import month_of, week_of
from xrouter.store.amounts import format_credits
from xrouter.store.ledger_rows import Generation
from xrouter.store.retention import read_dropped
from xrouter.store.schema import (
    accounts,
    entries,
    generations,
    holds,
    key_roots,
    key_usage,
    prices,
    retention,
    usage_days,
    usage_hours,
)

_DROPPED: Final = {
    "holds": "that each hold ended once is proven only where holds are kept: of requests that came after",
    "details": "no attempts, times and callers are kept, and no charge depends on them, of generations up to",
}
_MOST_TOLD: Final = 1000
_CHUNK: Final = 2000
_HOURS: Final = 24  # of a day
_FOR_EVER: Final = 2**26  # a day that does not come
_SUMS: Final = (
    "requests",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "charged_nano",
    "provider_cost_nano",
)


@dataclass(frozen=True, slots=True)
class Proof:
    """`sum_nano`: of all balances. `problems`: one sentence each; no more than a thousand are told.

    `dropped`: what retention has taken away, and what can therefore not be proven any more, one sentence each.
    """

    sum_nano: int
    accounts: int
    entries: int
    generations: int
    holds_open: int
    problems: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


async def prove(engine: AsyncEngine) -> Proof:
    """Read the whole ledger. Memory does not grow with it, but for the number of keys and problems."""
    async with engine.connect() as connection:
        problems: list[str] = []
        async for problem in _problems(connection):
            problems.append(problem)
            if len(problems) == _MOST_TOLD:
                problems.append("there are more problems; these are the first")
                break
        return Proof(
            sum_nano=await _number(connection, select(func.sum(accounts.c.balance_nano))),
            accounts=await _number(connection, select(func.count()).select_from(accounts)),
            entries=await _number(connection, select(func.count()).select_from(entries)),
            generations=await _number(connection, select(func.count()).select_from(generations)),
            holds_open=await _number(connection, select(func.count()).where(holds.c.state == "open")),
            problems=tuple(problems),
            dropped=tuple([f"{_DROPPED[subject]} {before}" async for subject, before in read_dropped(connection)]),
        )


async def _problems(connection: AsyncConnection) -> AsyncIterator[str]:
    for check in (_balances, _held, _ends, _charges, _prices, _keys, _usage):
        async for problem in check(connection):
            yield problem


async def _balances(connection: AsyncConnection) -> AsyncIterator[str]:
    """I1 and I2: all balances together are 0, each is the sum of its account's entries."""
    total = await _number(connection, select(func.sum(accounts.c.balance_nano)))
    if total:
        yield f"all balances together are {format_credits(total)}, not 0"
    moved = union_all(
        select(entries.c.credit_account.label("name"), entries.c.amount_nano.label("nano")),
        select(entries.c.debit_account, -entries.c.amount_nano),
    ).subquery()
    summed = select(moved.c.name, func.sum(moved.c.nano).label("nano")).group_by(moved.c.name).subquery()
    query = (
        select(summed.c.name, accounts.c.balance_nano, summed.c.nano)
        .outerjoin_from(summed, accounts, accounts.c.name == summed.c.name)
        .where(accounts.c.name.is_(None) | (accounts.c.balance_nano != summed.c.nano))
    )
    async for name, balance, nano in await connection.stream(query):
        if balance is None:
            yield f"account {name} has entries but does not exist"
        else:
            yield f"account {name} has the balance {format_credits(balance)}, its entries give {format_credits(nano)}"
    # Outer joins, never NOT IN: PostgreSQL goes through the whole of a large set anew for each row.
    silent = (
        select(accounts.c.name, accounts.c.balance_nano)
        .outerjoin_from(accounts, summed, summed.c.name == accounts.c.name)
        .where(accounts.c.balance_nano != 0, summed.c.name.is_(None))
    )
    async for name, balance in await connection.stream(silent):
        yield f"account {name} has the balance {format_credits(balance)}, but no entries"


async def _held(connection: AsyncConnection) -> AsyncIterator[str]:
    """I3: what is held of each account and each key is the sum of its open holds."""
    root = func.coalesce(key_roots.c.root, holds.c.key_hash)
    for table, name, kind, owner_of in (
        (accounts, accounts.c.name, "account", holds.c.account),
        (key_usage, key_usage.c.key_hash, "key", root),
    ):
        opened = (
            select(owner_of.label("name"), func.sum(holds.c.amount_nano).label("nano"))
            .outerjoin_from(holds, key_roots, key_roots.c.key_hash == holds.c.key_hash)
            .where(holds.c.state == "open")
            .group_by(owner_of)
            .subquery()
        )
        query = (
            select(name, table.c.held_nano, opened.c.nano)
            .outerjoin_from(table, opened, opened.c.name == name)
            .where(table.c.held_nano != func.coalesce(opened.c.nano, 0))
        )
        async for owner, held, nano in await connection.stream(query):
            yield f"{kind} {owner} has {format_credits(held)} held, its open holds are {format_credits(nano or 0)}"
        lost = (
            select(opened.c.name, opened.c.nano)
            .outerjoin_from(opened, table, name == opened.c.name)
            .where(opened.c.nano != 0, name.is_(None))
        )
        async for owner, nano in await connection.stream(lost):
            yield f"open holds of {format_credits(nano)} belong to {owner}, which has no row"


async def _ends(connection: AsyncConnection) -> AsyncIterator[str]:
    """I5: a settled hold has its generation, an open one has none, and only a released or expired one may go either way."""
    query = (
        select(holds.c.generation_id, holds.c.state, holds.c.closed_at_us, generations.c.id)
        .outerjoin_from(holds, generations, generations.c.id == holds.c.generation_id)
        .where(
            ((holds.c.state == "settled") & generations.c.id.is_(None))
            | ((holds.c.state == "open") & generations.c.id.is_not(None))
            | ((holds.c.state == "open") != holds.c.closed_at_us.is_(None))
        )
    )
    async for generation, state, closed_at, found in await connection.stream(query):
        if (state == "open") != (closed_at is None):
            yield f"the hold of {generation} is {state} and its end contradicts that"
        elif found:
            yield f"generation {generation} is settled, its hold is still {state}"
        else:
            yield f"the hold of {generation} is {state}, but there is no such generation"


async def _charges(connection: AsyncConnection) -> AsyncIterator[str]:
    """I6: each generation's entries are its charge, of which the part beyond the hold is an entry of its own."""

    def amount(kind: str) -> Any:
        return func.sum(case((entries.c.kind == kind, entries.c.amount_nano), else_=0)).label(kind)

    posted = (
        select(entries.c.generation_id, amount("charge"), amount("overrun"), amount("cost"), amount("refund"))
        .where(entries.c.generation_id.is_not(None))
        .group_by(entries.c.generation_id)
        .subquery()
    )
    figures = generations.c.charged_nano, generations.c.overrun_nano, generations.c.provider_cost_nano
    zero = literal(0)
    columns = [func.coalesce(posted.c[kind], zero) for kind in ("charge", "overrun", "cost", "refund")]
    query = (
        select(generations.c.id, *figures, generations.c.hold_nano, *columns)
        .outerjoin_from(generations, posted, posted.c.generation_id == generations.c.id)
        .where(
            (figures[0] != columns[0] + columns[1])
            | (figures[1] != columns[1])
            | (figures[2] != columns[2])
            | (columns[0] > generations.c.hold_nano)
            | (columns[3] > figures[0])
        )
    )
    async for row in await connection.stream(query):
        generation, charged, overrun, cost, hold, *entered = row
        yield (
            f"generation {generation} charges {format_credits(charged)} ({format_credits(overrun)} beyond a hold of"
            f" {format_credits(hold)}) and costs {format_credits(cost)}; its entries are charge, overrun, cost, refund ="
            f" {', '.join(map(format_credits, entered))}"
        )
    orphans = (
        select(posted.c.generation_id)
        .outerjoin_from(posted, generations, generations.c.id == posted.c.generation_id)
        .where(generations.c.id.is_(None))
    )
    async for (generation,) in await connection.stream(orphans):
        yield f"entries name generation {generation}, which does not exist"


async def _prices(connection: AsyncConnection) -> AsyncIterator[str]:
    """Promise 6: each charge follows from the usage and the price's version."""
    sheets: dict[str, tuple[Rates, Rates | None]] = {}
    for version, rates in await connection.execute(select(prices.c.version, prices.c.rates)):
        sheets[version] = read_sheet(rates)
    result = await connection.stream(select(generations).execution_options(yield_per=_CHUNK))
    async for row in result:
        generation = Generation(*row)
        sheet = sheets.get(generation.price_version)
        if sheet is None:
            yield f"generation {generation.id} was charged by price {generation.price_version}, which does not exist"
            continue
        for problem in _recompute(generation, *sheet):
            yield problem


def _recompute(generation: Generation, rates: Rates, cost: Rates | None) -> Iterator[str]:
    try:
        expected = _cost(generation, rates), 0 if cost is None else _cost(generation, cost)
    except UpstreamProtocolError:
        yield f"generation {generation.id} has token counts that cannot be right"
        return
    if (generation.cost_nano, generation.provider_cost_nano) != expected:
        yield (
            f"generation {generation.id} is priced {format_credits(generation.cost_nano)} (provider:"
            f" {format_credits(generation.provider_cost_nano)}), its usage and price {generation.price_version} give"
            f" {format_credits(expected[0])} (provider: {format_credits(expected[1])})"
        )
    if not min(generation.cost_nano, generation.hold_nano) <= generation.charged_nano <= generation.cost_nano:
        yield (
            f"generation {generation.id} charges {format_credits(generation.charged_nano)} of a price of"
            f" {format_credits(generation.cost_nano)} with a hold of {format_credits(generation.hold_nano)}"
        )


def _cost(generation: Generation, rates: Rates) -> int:
    if generation.input_tokens is None:
        return 0
    usage = Usage(
        generation.input_tokens,
        generation.output_tokens or 0,
        generation.cached_tokens,
        generation.reasoning_tokens,
    )
    return rates.cost(usage, generation.images)


async def _keys(connection: AsyncConnection) -> AsyncIterator[str]:
    """What each chain of rotated keys has spent, ever and in its current windows, is the sum of its generations."""
    roots = {key_hash: root async for key_hash, root in await connection.stream(select(key_roots))}
    spent: dict[str, list[tuple[int, int]]] = {}
    query = select(generations.c.key_hash, generations.c.day, func.sum(generations.c.charged_nano)).group_by(
        generations.c.key_hash, generations.c.day
    )
    async for key, day, nano in await connection.stream(query):
        spent.setdefault(roots.get(key, key), []).append((day, int(nano)))
    known: set[str] = set()
    async for row in await connection.stream(select(key_usage)):
        known.add(row.key_hash)
        days = spent.get(row.key_hash, [])
        expected = (
            sum(nano for _, nano in days),
            sum(nano for day, nano in days if day == row.day),
            sum(nano for day, nano in days if week_of(day) == week_of(row.day)),
            sum(nano for day, nano in days if month_of(day) == month_of(row.day)),
        )
        counted = (row.used_nano, row.day_nano, row.week_nano, row.month_nano)
        if counted != expected:
            yield (
                f"key {row.key_hash} has spent (ever, day, week, month) {', '.join(map(format_credits, counted))};"
                f" its generations give {', '.join(map(format_credits, expected))}"
            )
    for key in spent.keys() - known:
        yield f"key {key} has generations, but what it has spent is not kept"


async def _usage(connection: AsyncConnection) -> AsyncIterator[str]:
    """The sums that activity is shown from are those of the generations, account by account and model by model.

    Sums by hour are kept for a while only: those of one day are held against the sums of that day.
    """
    by = ("account", "key_hash", "model")
    kept = _grouped(usage_days, by, [func.sum(usage_days.c[name]).label(name) for name in _SUMS])
    true = _grouped(
        generations,
        by,
        [func.count().label("requests"), *(_sum_or_0(generations.c[name]).label(name) for name in _SUMS[1:])],
    )
    async for account, key, model, missing in _differences(connection, true, kept, by):
        problem = "are kept, but there are no such generations" if missing else "differ from its generations"
        yield f"the sums of usage of account {account}, key {key}, model {model} {problem}"
    place = ("day", *by, "upstream")
    first = await connection.scalar(select(func.min(usage_hours.c.hour) // _HOURS))
    dropped = await connection.scalar(select(retention.c.upto).where(retention.c.subject == "hours"))
    whole = max(_FOR_EVER if first is None else first, 0 if dropped is None else int(dropped) + 1)
    day = (usage_hours.c.hour // _HOURS).label("day")
    hours = select(day, usage_hours).where(usage_hours.c.hour >= whole * _HOURS).subquery()
    days = select(usage_days).where(usage_days.c.day >= whole).subquery()
    of_hours, of_days = (
        _grouped(table, place, [func.sum(table.c[name]).label(name) for name in _SUMS]) for table in (hours, days)
    )
    async for on, account, key, model, _, _ in _differences(connection, of_days, of_hours, place):
        yield f"the sums by hour of account {account}, key {key}, model {model} differ from those of day {on}"


async def _differences(
    connection: AsyncConnection, one: Subquery, other: Subquery, by: tuple[str, ...]
) -> AsyncIterator[Any]:
    """The groups whose sums differ, and whether it is `one` that has no such group at all."""
    same = [one.c[name] == other.c[name] for name in by]
    different = [one.c[name] != other.c[name] for name in _SUMS]
    for left, right in ((one, other), (other, one)):
        lost = right.c[by[0]].is_(None)
        condition = or_(lost, *different) if left is one else lost
        query = select(*(left.c[name] for name in by)).outerjoin_from(left, right, and_(*same)).where(condition)
        async for row in await connection.stream(query):
            yield *row, left is other


def _grouped(table: Any, by: tuple[str, ...], sums: list[Any]) -> Subquery:
    columns = [table.c[name] for name in by]
    return select(*columns, *sums).group_by(*columns).subquery()


def _sum_or_0(column: Any) -> Any:
    return func.coalesce(func.sum(column), 0)


async def _number(connection: AsyncConnection, query: Any) -> int:
    return int(await connection.scalar(query) or 0)

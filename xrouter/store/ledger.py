"""Reading and writing the ledger's tables inside one transaction that holds the write lock.

The rules are in xrouter/ledger/book.py; here is only SQL. A row that is changed was read in the same transaction, or has not
changed since it was (`remembered`), and is written back on the condition that it is still as it was read: should the lock
ever not hold (a driver that drops `FOR UPDATE`, incident I-17), the transaction fails instead of losing a change.

Statements are made once, from the schema, and each writes many rows. `execute` is the driver's own, since SQLAlchemy's
execution would cost more than the rows themselves.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import ClauseElement, Table, bindparam, func, insert, literal_column, select, update
from sqlalchemy.dialects import sqlite

from xrouter.store.ledger_rows import (
    Account,
    Entry,
    Generation,
    Hold,
    KeyTerms,
    KeyUsage,
    PriceVersion,
    UsagePlace,
    UsageSum,
)
from xrouter.store.many_rows import ManyRows, inserted, updated
from xrouter.store.remembered import Remembered
from xrouter.store.retention import Execute, drop_details, drop_holds, note_dropped_hours
from xrouter.store.schema import (
    accounts,
    api_keys,
    entries,
    generations,
    holders,
    holds,
    key_roots,
    key_usage,
    prices,
    usage_days,
    usage_hours,
)


class LostRace(Exception):
    """A row was changed by somebody else between our reading and writing it. Nothing is committed; try again."""


_DIALECT: Final = sqlite.dialect(paramstyle="qmark")


def _sql(statement: ClauseElement, *parameters: str) -> str:
    """The statement's text, with `?` for `parameters` in this order."""
    compiled = statement.compile(dialect=_DIALECT)
    positions = tuple(compiled.positiontup or ())  # type: ignore[attr-defined]  # of a compiled statement of SQL
    assert positions == parameters, f"parameters are in the order {positions}"
    return str(compiled)


def _names(table: Any, *left_out: str) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns if column.name not in left_out)


def _insert(table: Any, *left_out: str) -> str:
    names = _names(table, *left_out)
    return _sql(insert(table).values({name: bindparam(name) for name in names}), *names)


_ACCOUNT_FIELDS: Final = ("name", "kind", "balance_nano", "held_nano", "floor_nano")
_READ_ACCOUNT: Final = _sql(
    select(*(accounts.c[name] for name in _ACCOUNT_FIELDS)).where(accounts.c.name == bindparam("n")), "n"
)
_ADD_ACCOUNT: Final = _insert(accounts)
_HELD: Final = ("balance_nano", "held_nano")
_WRITE_ACCOUNTS: Final = updated("accounts", "name", _HELD, _HELD)
_HOLD_FIELDS: Final = _names(holds)
_READ_HOLD: Final = _sql(select(holds).where(holds.c.generation_id == bindparam("id")), "id")
_ADD_HOLDS: Final = inserted(_insert(holds))
_WRITE_HOLDS: Final = updated("holds", "generation_id", ("amount_nano", "state", "closed_at_us"), ("state",))
_READ_ROOT: Final = _sql(select(key_roots.c.root).where(key_roots.c.key_hash == bindparam("h")), "h")
_READ_LIMIT: Final = _sql(
    select(api_keys.c.limit_nano, api_keys.c.limit_reset).where(api_keys.c.hash == bindparam("h")), "h"
)
_USAGE_FIELDS: Final = ("held_nano", "used_nano", "day", "day_nano", "week_nano", "month_nano")
_READ_USAGE: Final = _sql(
    select(*(key_usage.c[name] for name in _USAGE_FIELDS)).where(key_usage.c.key_hash == bindparam("h")), "h"
)
_UPSERT_KEY: Final = sqlite.insert(key_usage).values({name: bindparam(name) for name in _names(key_usage)})
_WRITE_USAGE: Final = inserted(
    _sql(
        _UPSERT_KEY.on_conflict_do_update(
            index_elements=[key_usage.c.key_hash], set_={name: _UPSERT_KEY.excluded[name] for name in _USAGE_FIELDS}
        ),
        *_names(key_usage),
    )
)
_ADD_ENTRIES: Final = inserted(_insert(entries, "id"))
_READ_BY_IDEMPOTENCY_KEY: Final = _sql(
    select(*(entries.c[name] for name in Entry._fields)).where(entries.c.idempotency_key == bindparam("k")), "k"
)
_READ_REFUNDED: Final = _sql(
    select(func.coalesce(func.sum(entries.c.amount_nano), literal_column("0"))).where(
        entries.c.generation_id == bindparam("id"), entries.c.kind == literal_column("'refund'")
    ),
    "id",
)
_ADD_GENERATIONS: Final = inserted(_insert(generations))
_READ_GENERATION: Final = _sql(select(generations).where(generations.c.id == bindparam("id")), "id")
_ADD_PRICES: Final = inserted(
    _sql(
        sqlite.insert(prices).values({name: bindparam(name) for name in _names(prices)}).on_conflict_do_nothing(),
        *_names(prices),
    )
)
_HOURS: Final = 24  # of a day
_SUMMED: Final = UsageSum.__struct_fields__


def _add_to(sums: Table) -> ManyRows:
    upsert = sqlite.insert(sums).values({name: bindparam(name) for name in _names(sums)})
    return inserted(
        _sql(
            upsert.on_conflict_do_update(
                index_elements=list(sums.primary_key),
                set_={name: sums.c[name] + upsert.excluded[name] for name in _SUMMED},
            ),
            *_names(sums),
        )
    )


_ADD_TO_HOURS: Final = _add_to(usage_hours)
_ADD_TO_DAYS: Final = _add_to(usage_days)
_UPSERT_HOLDER: Final = sqlite.insert(holders).values(id=bindparam("id"), lease_until_us=bindparam("lease_until_us"))
_WRITE_HOLDER: Final = _sql(
    _UPSERT_HOLDER.on_conflict_do_update(
        index_elements=[holders.c.id], set_={"lease_until_us": _UPSERT_HOLDER.excluded.lease_until_us}
    ),
    "id", "lease_until_us",
)  # fmt: skip
_SHORTEN_LEASES: Final = _sql(
    update(holders).where(holders.c.lease_until_us > bindparam("latest")).values(lease_until_us=bindparam("new")),
    "new", "latest",
)  # fmt: skip
_READ_DEAD_HOLDS: Final = (
    _sql(
        select(holds)
        .outerjoin(holders, holders.c.id == holds.c.holder)
        .where(
            holds.c.state == literal_column("'open'"),
            (holders.c.lease_until_us <= bindparam("now"))
            | (
                holders.c.id.is_(None)
                & ((holds.c.opened_at_us <= bindparam("lease_ago")) | (holds.c.opened_at_us > bindparam("now_again")))
            ),
        ),
        "now",
        "lease_ago",
        "now_again",
    )
    + " LIMIT 1000"
)
_FORGET_DEAD_HOLDERS: Final = (
    "DELETE FROM holders WHERE lease_until_us <= ?"
    " AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.holder = holders.id AND holds.state = 'open')"
)
_DATA_VERSION: Final = "PRAGMA data_version"
_READ_KNOWN: Final = (
    "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM holds WHERE generation_id = value)"
    " OR EXISTS (SELECT 1 FROM generations WHERE id = value)"
)
_FIRST_HOUR: Final = "SELECT min(hour) FROM usage_hours"
_DROP_HOURS: Final = "DELETE FROM usage_hours WHERE hour >= ? AND hour < ?"
_SUM_VALUES: Final = attrgetter(*_SUMMED)


def in_days(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows to add to the sums of hours, added up to rows for the sums of days."""
    places = len(UsagePlace._fields)
    days: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        place = (row[0] // _HOURS, *row[1:places])
        known = days.get(place)
        days[place] = (
            list(row[places:]) if known is None else [one + more for one, more in zip(known, row[places:], strict=True)]
        )
    return [(*place, *sums) for place, sums in days.items()]


class LedgerTables:
    """One transaction's view of the ledger. The caller has begun it with the write lock, and commits it.

    `remembered`: of the connection, as its transactions before have left it. Without, every row is read.
    """

    def __init__(self, execute: Execute, remembered: Remembered | None = None) -> None:
        self._execute = execute
        self._rows = remembered or Remembered()
        self._new: set[str] = set()
        if remembered is not None:
            (version,) = execute(_DATA_VERSION, ()).fetchone()
            remembered.keep_if(version)

    def foresee(self, generation_ids: Iterable[str]) -> None:
        """Find out at once which of these have neither hold nor generation: most, and they need not be looked for."""
        asked = [one for one in generation_ids if one not in self._rows.holds]
        if asked:
            known = self._execute(_READ_KNOWN, (msgspec.json.encode(asked).decode(),)).fetchall()
            self._new = set(asked).difference(one for (one,) in known)

    def account(self, name: str) -> Account | None:
        account = self._rows.accounts.get(name)
        if account is None:
            row = self._execute(_READ_ACCOUNT, (name,)).fetchone()
            if row is None:
                return None
            account = self._rows.accounts[name] = Account(*row, *row[2:4])
        return account

    def hold(self, generation_id: str) -> Hold | None:
        hold = self._rows.holds.get(generation_id)
        if hold is not None or generation_id in self._new:
            return hold
        row = self._execute(_READ_HOLD, (generation_id,)).fetchone()
        return None if row is None else _hold(row)

    def key_terms(self, key_hash: str) -> KeyTerms:
        """A key that is gone has no limit, but still its chain."""
        terms = self._rows.terms.get(key_hash)
        if terms is None:
            (root,) = self._execute(_READ_ROOT, (key_hash,)).fetchone() or (key_hash,)
            limit = self._execute(_READ_LIMIT, (key_hash,)).fetchone() or (None, None)
            terms = self._rows.terms[key_hash] = KeyTerms(root, *limit)
        return terms

    def key_usage(self, root: str, day: int) -> KeyUsage:
        """A chain of keys that has spent nothing has no row yet."""
        usage = self._rows.keys.get(root)
        if usage is None:
            row = self._execute(_READ_USAGE, (root,)).fetchone() or (0, 0, day, 0, 0, 0)
            usage = self._rows.keys[root] = KeyUsage(root, *row)
        return usage

    def generation(self, generation_id: str) -> Generation | None:
        if generation_id in self._new:
            return None
        row = self._execute(_READ_GENERATION, (generation_id,)).fetchone()
        return None if row is None else Generation(*row)

    def entry_by_idempotency_key(self, key: str) -> Entry | None:
        row = self._execute(_READ_BY_IDEMPOTENCY_KEY, (key,)).fetchone()
        return None if row is None else Entry(*row)

    def refunded_nano(self, generation_id: str) -> int:
        total: int = self._execute(_READ_REFUNDED, (generation_id,)).fetchone()[0]
        return int(total)

    def dead_holds(self, now_us: int, lease_us: int) -> list[Hold]:
        """Some of the open holds whose process has not renewed its lease.

        A process that was given up, but lives, may have opened holds before it renewed: they stay for a lease.

        A lease that ends later than any can was written by a clock that has been set back since: it is cut to the longest
        one. Its process, if it lives, renews it in time.
        """
        self._execute(_SHORTEN_LEASES, (now_us + lease_us, now_us + lease_us))
        return [_hold(row) for row in self._execute(_READ_DEAD_HOLDS, (now_us, now_us - lease_us, now_us)).fetchall()]

    def forget_dead_holders(self, now_us: int) -> None:
        self._execute(_FORGET_DEAD_HOLDERS, (now_us,))

    def renew(self, holder: str, lease_until_us: int) -> None:
        self._execute(_WRITE_HOLDER, (holder, lease_until_us))

    def roll_up(self, before_day: int) -> int:
        """Drop the first day's sums of hours, if it is before `before_day`; returns how many rows. Those of the day stay."""
        first = self._execute(_FIRST_HOUR, ()).fetchone()[0]
        if first is None or first // _HOURS >= before_day:
            return 0
        day = first // _HOURS
        note_dropped_hours(self._execute, day)
        return self._execute(_DROP_HOURS, (day * _HOURS, (day + 1) * _HOURS)).rowcount

    def drop_holds(self, before_us: int) -> int:
        """Forget some of the holds of requests that came before `before_us`, if they have ended; returns how many."""
        return drop_holds(self._execute, before_us)

    def drop_details(self, before_us: int) -> int:
        """Forget the details of some generations that began before `before_us`; returns of how many."""
        return drop_details(self._execute, before_us)

    def write_prices(self, versions: Iterable[PriceVersion], now_us: int) -> None:
        _ADD_PRICES.write(self._execute, [(*version, now_us) for version in versions])

    def write_accounts(self, changed: Iterable[Account], now_us: int) -> None:
        written: list[Sequence[Any]] = []
        for account in changed:
            name, balance, held = account.name, account.balance_nano, account.held_nano
            if account.read_balance_nano is None:
                self._execute(_ADD_ACCOUNT, (name, account.kind, balance, held, account.floor_nano, now_us))
                self._rows.accounts[name] = account
            elif balance != account.read_balance_nano or held != account.read_held_nano:
                written.append((name, balance, held, account.read_balance_nano, account.read_held_nano))
            account.read_balance_nano, account.read_held_nano = balance, held
        if _WRITE_ACCOUNTS.write(self._execute, written) != len(written):
            raise LostRace("an account")

    def write_holds(self, changed: Iterable[Hold]) -> None:
        added: list[Sequence[Any]] = []
        written: list[Sequence[Any]] = []
        for hold in changed:
            if hold.read_state is None:
                added.append(_HOLD_VALUES(hold))
            else:
                written.append((hold.generation_id, hold.amount_nano, hold.state, hold.closed_at_us, hold.read_state))
            hold.read_state = hold.state
            if hold.state == "open":
                self._rows.holds[hold.generation_id] = hold
            else:
                self._rows.holds.pop(hold.generation_id, None)
        _ADD_HOLDS.write(self._execute, added)
        if _WRITE_HOLDS.write(self._execute, written) != len(written):
            raise LostRace("a hold")

    def write_keys(self, changed: Iterable[KeyUsage]) -> None:
        _WRITE_USAGE.write(self._execute, [_KEY_VALUES(usage) for usage in changed])

    def write_entries(self, added: Sequence[Entry]) -> None:
        _ADD_ENTRIES.write(self._execute, added)

    def write_generations(self, added: Sequence[Generation]) -> None:
        _ADD_GENERATIONS.write(self._execute, added)

    def add_to_sums(self, added: Iterable[tuple[UsagePlace, UsageSum]]) -> None:
        """To those of the hour and those of the day."""
        rows = [(*place, *_SUM_VALUES(total)) for place, total in added]
        _ADD_TO_HOURS.write(self._execute, rows)
        _ADD_TO_DAYS.write(self._execute, in_days(rows))


_HOLD_VALUES: Final = attrgetter(*_HOLD_FIELDS)
_KEY_VALUES: Final = attrgetter(*_names(key_usage))


_STATE: Final = _HOLD_FIELDS.index("state")


def _hold(row: Sequence[Any]) -> Hold:
    return Hold(*row, *row[_STATE : _STATE + 1])

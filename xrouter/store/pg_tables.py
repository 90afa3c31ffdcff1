"""The ledger's tables on PostgreSQL in one transaction: read in one statement, changed in memory, written in one statement.

A round trip costs as much as many rows do, so the rows that a batch of operations can touch are read before its rules
(xrouter/ledger/book.py) are applied. `PgTables` answers the rules from them, as `xrouter.store.ledger.LedgerTables` does
from SQLite; a row that was not asked for beforehand is a `KeyError` and never taken for one that does not exist.

Columns are always named: a newer version may have added some (expand, then contract).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from xrouter.store.ledger import LostRace, in_days
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
from xrouter.store.pg_statements import (
    DROP_DETAILS,
    DROP_HOLDS,
    EXPIRE,
    FORGET_DEAD_HOLDERS,
    KEY_USAGE,
    NEW_HOLD,
    READ,
    RENEW,
    ROLL_UP,
    SUM,
    Part,
    write_sql,
)
from xrouter.store.retention import AT_ONCE

_T = TypeVar("_T")


class Session(Protocol):
    """One connection inside a transaction that has the ledger's write lock."""

    async def row(self, sql: str, *values: object) -> Sequence[object]:
        """The first row that a statement answers with."""


@dataclass(frozen=True, slots=True)
class Touched:
    """What a batch of operations can touch, as far as it names it. What its holds belong to is found with them."""

    generations: frozenset[str]
    accounts: frozenset[str]
    keys: frozenset[str]
    idempotency_keys: frozenset[str]
    refunded: frozenset[str]  # generations
    renewals: tuple[tuple[str, int], ...]  # holder, end of its lease
    expire_lease_us: int | None
    roll_up_before_day: int | None
    drop_holds_before: str | None  # a generation's id
    drop_details_before: str | None


class PgTables:
    """One transaction's view of the ledger: `read`, then the rules, then `flush`. Committing is the caller's."""

    def __init__(self, now_us: int, day: int) -> None:
        self._now_us = now_us
        self._day = day
        self._accounts: dict[str, Account | None] = {}
        self._holds: dict[str, Hold | None] = {}
        self._terms: dict[str, KeyTerms] = {}
        self._keys: dict[str, KeyUsage] = {}
        self._generations: dict[str, Generation | None] = {}
        self._entries: dict[str, Entry | None] = {}
        self._refunded: dict[str, int] = {}
        self._dead: list[str] = []
        self._rolled_up = 0
        self._dropped_holds = 0
        self._dropped_details = 0
        self._forget_dead = False
        self._parts: list[tuple[Part, Sequence[Sequence[object]]]] = []

    async def read(self, session: Session, touched: Touched) -> None:
        """Renewals, the roll-up and retention are done at once: nothing in the batch depends on what came before them."""
        for holder, until in touched.renewals:
            await session.row(RENEW, holder, until)
        if touched.roll_up_before_day is not None:
            self._rolled_up = _count(await session.row(ROLL_UP, touched.roll_up_before_day))
        if touched.drop_holds_before is not None:
            self._dropped_holds = _count(await session.row(DROP_HOLDS, touched.drop_holds_before, AT_ONCE))
        if touched.drop_details_before is not None:
            self._dropped_details = _count(await session.row(DROP_DETAILS, touched.drop_details_before, AT_ONCE))
        if touched.expire_lease_us is not None:
            (dead,) = await session.row(EXPIRE, self._now_us, touched.expire_lease_us)
            self._dead = _decode_names(dead)
        holds = touched.generations.union(self._dead)
        texts = await session.row(
            READ,
            list(holds),
            list(touched.generations),
            list(touched.accounts),
            list(touched.keys),
            self._day,
            list(touched.idempotency_keys),
            list(touched.refunded),
        )
        found_holds, found_accounts, found_keys, found_terms, found_generations, found_entries, found_refunds = texts
        self._accounts = dict.fromkeys(touched.accounts)
        self._holds = dict.fromkeys(holds)
        for hold in _decode_holds(found_holds):
            hold.read_state = hold.state
            self._holds[hold.generation_id] = hold
            self._accounts[hold.account] = None
        for account in _decode_accounts(found_accounts):
            account.read_balance_nano, account.read_held_nano = account.balance_nano, account.held_nano
            self._accounts[account.name] = account
        self._keys = {key.key_hash: key for key in _decode_keys(found_keys)}
        self._terms = dict(_decode_terms(found_terms))
        self._generations = dict.fromkeys(touched.generations)
        self._generations.update((one.id, one) for one in _decode_generations(found_generations))
        self._entries = dict.fromkeys(touched.idempotency_keys)
        self._entries.update((one.idempotency_key or "", one) for one in _decode_entries(found_entries))
        self._refunded = dict.fromkeys(touched.refunded, 0)
        self._refunded.update(_decode_refunds(found_refunds))

    async def flush(self, session: Session) -> None:
        """Write what the rules have changed. Raises LostRace."""
        parts = self._parts
        if parts:
            columns = [column for part, rows in parts for column in zip(*rows, strict=True)]
            counts = await session.row(write_sql(tuple(part for part, _ in parts)), *map(list, columns))
            for (part, rows), count in zip(parts, counts, strict=True):
                if part.guarded and count != len(rows):
                    raise LostRace(part.name)
        if self._forget_dead:
            await session.row(FORGET_DEAD_HOLDERS, self._now_us)

    # What the rules read

    def foresee(self, generation_ids: Iterable[str]) -> None:
        """Done by `read`."""

    def account(self, name: str) -> Account | None:
        return self._accounts[name]

    def hold(self, generation_id: str) -> Hold | None:
        return self._holds[generation_id]

    def key_terms(self, key_hash: str) -> KeyTerms:
        return self._terms[key_hash]

    def key_usage(self, root: str, day: int) -> KeyUsage:
        assert day == self._day
        return self._keys[root]

    def generation(self, generation_id: str) -> Generation | None:
        return self._generations[generation_id]

    def entry_by_idempotency_key(self, key: str) -> Entry | None:
        return self._entries[key]

    def refunded_nano(self, generation_id: str) -> int:
        return self._refunded[generation_id]

    def dead_holds(self, now_us: int, lease_us: int) -> list[Hold]:
        return [hold for one in self._dead if (hold := self._holds[one]) is not None]

    # What the rules do at once

    def renew(self, holder: str, lease_until_us: int) -> None:
        """Done by `read`."""

    def roll_up(self, before_day: int) -> int:
        """Done by `read`."""
        return self._rolled_up

    def drop_holds(self, before_us: int) -> int:
        """Done by `read`."""
        return self._dropped_holds

    def drop_details(self, before_us: int) -> int:
        """Done by `read`."""
        return self._dropped_details

    def forget_dead_holders(self, now_us: int) -> None:
        self._forget_dead = True

    # What the rules have changed

    def write_prices(self, versions: Iterable[PriceVersion], now_us: int) -> None:
        self._write(Part.PRICES, [(*version, now_us) for version in versions])

    def write_accounts(self, changed: Iterable[Account], now_us: int) -> None:
        added, written = [], []
        for account in changed:
            name, balance, held = account.name, account.balance_nano, account.held_nano
            before = (account.read_balance_nano, account.read_held_nano)
            if account.read_balance_nano is None:
                added.append((name, account.kind, balance, held, account.floor_nano, now_us))
            elif (balance, held) != before:
                written.append((name, balance, held, *before))
        self._write(Part.NEW_ACCOUNTS, added)
        self._write(Part.ACCOUNTS, written)

    def write_holds(self, changed: Iterable[Hold]) -> None:
        added, written = [], []
        for hold in changed:
            if hold.read_state is None:
                added.append(NEW_HOLD(hold))
            else:
                written.append((hold.generation_id, hold.amount_nano, hold.state, hold.closed_at_us, hold.read_state))
        self._write(Part.NEW_HOLDS, added)
        self._write(Part.HOLDS, written)

    def write_keys(self, changed: Iterable[KeyUsage]) -> None:
        self._write(Part.KEYS, [KEY_USAGE(usage) for usage in changed])

    def write_entries(self, added: Sequence[Entry]) -> None:
        self._write(Part.ENTRIES, added)

    def write_generations(self, added: Sequence[Generation]) -> None:
        self._write(Part.GENERATIONS, added)

    def add_to_sums(self, added: Iterable[tuple[UsagePlace, UsageSum]]) -> None:
        rows = [(*place, *SUM(total)) for place, total in added]
        self._write(Part.HOURS, rows)
        self._write(Part.DAYS, in_days(rows))

    def _write(self, part: Part, rows: Sequence[Sequence[object]]) -> None:
        if rows:
            self._parts.append((part, rows))


def _count(row: Sequence[object]) -> int:
    (count,) = row
    assert isinstance(count, int)
    return count


def _decoder(kind: type[_T]) -> Callable[[object], list[_T]]:
    """Of what `json_agg` made of rows; it makes NULL of none. Objects become dataclasses, arrays named tuples."""
    decode = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]

    def rows(text: object) -> list[_T]:
        assert isinstance(text, str | None)
        return [] if text is None else decode(text)

    return rows


_decode_names: Final = _decoder(str)
_decode_holds: Final = _decoder(Hold)
_decode_accounts: Final = _decoder(Account)
_decode_keys: Final = _decoder(KeyUsage)
_decode_terms: Final = _decoder(tuple[str, KeyTerms])
_decode_generations: Final = _decoder(Generation)
_decode_entries: Final = _decoder(Entry)
_decode_refunds: Final = _decoder(tuple[str, int])

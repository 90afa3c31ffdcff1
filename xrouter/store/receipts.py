"""Reading what is kept of one generation: its row, its price, its hold and the entries that it made."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, Select, literal_column, select, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.ledger_rows import Generation, PriceVersion
from xrouter.store.schema import api_keys, entries, generations, holds, prices


@dataclass(frozen=True, slots=True)
class ReceiptEntry:
    """One movement of credits that belongs to a generation."""

    id: int
    kind: str
    debit_account: str
    credit_account: str
    amount_nano: int
    at_us: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class ReceiptHold:
    state: str
    opened_at_us: int
    closed_at_us: int | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """`hold` is None where none was needed; `key_label` and `key_name` where the key has been deleted."""

    generation: Generation
    price: PriceVersion
    hold: ReceiptHold | None
    key_name: str | None
    key_label: str | None
    entries: tuple[ReceiptEntry, ...]


_ENTRY: Final = (
    entries.c.id,
    entries.c.kind,
    entries.c.debit_account,
    entries.c.credit_account,
    entries.c.amount_nano,
    entries.c.at_us,
    entries.c.reason,
)
_PRICE: Final = (prices.c.version, prices.c.model, prices.c.since, prices.c.rates)
_HOLD: Final = (holds.c.state, holds.c.opened_at_us, holds.c.closed_at_us)


def _whole(generation_id: str, account: str | None) -> Select[Any]:
    query: Select[Any] = (
        select(
            *(generations.c[name] for name in Generation._fields), *_PRICE, *_HOLD, api_keys.c.name, api_keys.c.label
        )
        .join(prices, prices.c.version == generations.c.price_version)
        .outerjoin(holds, holds.c.generation_id == generations.c.id)
        .outerjoin(api_keys, api_keys.c.hash == generations.c.key_hash)
        .where(generations.c.id == generation_id)
    )
    return query if account is None else query.where(generations.c.account == account)


def _entries_of(generation_id: str) -> Select[Any]:
    """In two parts, each in the words of a partial index: there is no index of all entries by generation."""
    parts = (
        select(*_ENTRY).where(entries.c.generation_id == generation_id, literal_column(kinds))
        for kinds in ("kind IN ('charge', 'overrun', 'cost')", "kind = 'refund'")
    )
    found = union_all(*parts).subquery()
    return select(found).order_by(found.c.id)


async def read_receipt(engine: AsyncEngine, generation_id: str, account: str | None) -> Receipt | None:
    """The receipt of a settled generation; None if there is none, or not of `account` (None: whoever's)."""
    async with engine.connect() as connection:
        row = (await connection.execute(_whole(generation_id, account))).one_or_none()
        if row is None:
            return None
        posted = (await connection.execute(_entries_of(generation_id))).all()
    return _receipt(row, [ReceiptEntry(*entry) for entry in posted])


def _receipt(row: Row[Any], posted: list[ReceiptEntry]) -> Receipt:
    values = list(row)
    columns, rest = values[: len(Generation._fields)], values[len(Generation._fields) :]
    price, hold, key = rest[: len(_PRICE)], rest[len(_PRICE) : -2], rest[-2:]
    return Receipt(
        generation=Generation(*columns),
        price=PriceVersion(*price),
        hold=None if hold[0] is None else ReceiptHold(*hold),
        key_name=key[0],
        key_label=key[1],
        entries=tuple(posted),
    )

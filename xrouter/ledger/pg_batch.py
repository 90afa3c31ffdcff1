"""One batch of operations on PostgreSQL, in a transaction that has been begun and is committed elsewhere."""

from collections.abc import Iterable
from typing import Final

from xrouter.errors import XRouterError
from xrouter.ids import first_generation_id
from xrouter.ledger.book import (
    ADJUSTMENTS,
    KEPT_HOURS_DAYS,
    PROMOTIONS,
    PROVIDER_COST,
    PROVIDERS,
    REVENUE,
    Book,
    apply_all,
)
from xrouter.ledger.operations import (
    Expire,
    ExtendHold,
    OpenHold,
    Operation,
    Prune,
    ReleaseHold,
    Renew,
    Result,
    RollUp,
    Settlement,
    TakeBack,
    Transfer,
)
from xrouter.ledger.windows import day_of
from xrouter.store.pg_tables import PgTables, Session, Touched

# The ledger has one writer at a time, as on SQLite. Locks of single rows would let nobody through either: every charge moves
# the one account of revenue. Held from a transaction's beginning to its end, whichever process's it is.
WRITE_LOCK: Final = f"SELECT pg_advisory_xact_lock({0x78726C6564676572})"  # "xrledger"
_SYSTEM: Final = frozenset({REVENUE, PROMOTIONS, ADJUSTMENTS, PROVIDER_COST, PROVIDERS})


async def apply_batch(
    session: Session, operations: list[Operation], at_us: int, seen_prices: set[str]
) -> tuple[Book, list[Result | XRouterError]]:
    """Each operation's result, or why it alone was refused. Whoever commits tells the book that it is `stored()`."""
    tables = PgTables(at_us, day_of(at_us))
    await tables.read(session, _touched(operations, at_us))
    book = Book(tables, at_us, seen_prices)
    results = apply_all(book, operations)
    book.write()
    await tables.flush(session)
    return book, results


def _touched(operations: Iterable[Operation], at_us: int) -> Touched:
    generations: set[str] = set()
    accounts: set[str] = set()
    keys: set[str] = set()
    idempotency_keys: set[str] = set()
    refunded: set[str] = set()
    renewals: dict[str, int] = {}
    expire_lease_us: int | None = None
    roll_up_before_day: int | None = None
    drop_holds_before: str | None = None
    drop_details_before: str | None = None
    for operation in operations:
        match operation:
            case OpenHold() | Settlement():
                generations.add(operation.generation_id)
                accounts.add(operation.account)
                keys.add(operation.key_hash)
            case ExtendHold() | ReleaseHold():
                generations.add(operation.generation_id)
            case TakeBack():
                generations.add(operation.generation_id)
                refunded.add(operation.generation_id)
                accounts.add(operation.account)
            case Transfer():
                accounts.add(operation.account)
                if operation.idempotency_key is not None:
                    idempotency_keys.add(operation.idempotency_key)
                if operation.kind == "refund":
                    generations.add(operation.generation_id or "")
                    refunded.add(operation.generation_id or "")
            case Renew():
                renewals[operation.holder] = at_us + operation.lease_us
            case Expire():
                expire_lease_us = operation.lease_us
            case RollUp():
                roll_up_before_day = day_of(at_us) - KEPT_HOURS_DAYS
            case Prune(keep_holds_us, keep_details_us):
                if keep_holds_us is not None:
                    drop_holds_before = first_generation_id(at_us - keep_holds_us)
                if keep_details_us is not None:
                    drop_details_before = first_generation_id(at_us - keep_details_us)
        if isinstance(operation, Settlement | Transfer | TakeBack):
            accounts |= _SYSTEM
    return Touched(
        generations=frozenset(generations),
        accounts=frozenset(accounts),
        keys=frozenset(keys),
        idempotency_keys=frozenset(idempotency_keys),
        refunded=frozenset(refunded),
        renewals=tuple(renewals.items()),
        expire_lease_us=expire_lease_us,
        roll_up_before_day=roll_up_before_day,
        drop_holds_before=drop_holds_before,
        drop_details_before=drop_details_before,
    )

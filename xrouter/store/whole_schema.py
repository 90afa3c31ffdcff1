"""Every table with all that belongs to it: the tables of schema.py, and the partial indexes.

These are apart because an index's condition belongs to a dialect, and naming a dialect makes SQLAlchemy import it: that of
PostgreSQL, with four drivers, was a tenth of the start of a gateway on SQLite.
"""

from typing import Final

from sqlalchemy import Column, Index, MetaData, text

from xrouter.store import schema
from xrouter.store.schema import entries, holds

metadata: Final[MetaData] = schema.metadata


def _partial(name: str, where: str, *columns: Column[object], unique: bool = False) -> None:
    Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


# What a generation can have once it can have only once, whatever the program does (incident I-23).
_partial(
    "uq_entries_generation_id_kind",
    "kind IN ('charge', 'overrun', 'cost')",
    entries.c.generation_id,
    entries.c.kind,
    unique=True,
)
_partial(
    "uq_entries_idempotency_key",
    "idempotency_key IS NOT NULL",
    entries.c.idempotency_key,
    unique=True,
)
# The few entries that people made, apart from the many that requests made.
_partial(
    "ix_entries_given",
    "kind IN ('grant', 'adjustment')",
    entries.c.credit_account,
    entries.c.debit_account,
    entries.c.amount_nano,
)
_partial("ix_entries_refunds", "kind = 'refund'", entries.c.generation_id)
_partial("ix_holds_open", "state = 'open'", holds.c.holder)

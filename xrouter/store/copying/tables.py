"""The tables that are copied: how their rows are read on either side, and the one text that both sides' rows have."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
from sqlalchemy import Boolean, Integer, Table

from xrouter.store.schema import entries
from xrouter.store.whole_schema import metadata

Row: TypeAlias = tuple[Any, ...]
Key: TypeAlias = tuple[Any, ...]

_MODULUS: Final = 1 << 256
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """`select` has the columns in their order and no more. `booleans`: the places of those that SQLite keeps as 0 and 1."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    key_places: tuple[int, ...]
    key_types: tuple[str, ...]  # of PostgreSQL
    booleans: tuple[int, ...]
    append_only: bool
    select: str
    by_key: str  # SQLite's WHERE of one row

    @classmethod
    def of(cls, table: Table) -> "CopiedTable":
        columns = tuple(str(column.name) for column in table.columns)
        key = tuple(str(column.name) for column in table.primary_key.columns)
        return cls(
            name=str(table.name),  # SQLAlchemy's own kind of string until here
            columns=columns,
            key=key,
            key_places=tuple(columns.index(name) for name in key),
            key_types=tuple(
                "bigint" if isinstance(column.type, Integer) else "text" for column in table.primary_key.columns
            ),
            booleans=tuple(place for place, column in enumerate(table.columns) if isinstance(column.type, Boolean)),
            append_only=table is entries,
            select=f"SELECT {', '.join(columns)} FROM {table.name}",
            by_key=" AND ".join(f"{name} = ?" for name in key),
        )

    def key_of(self, row: Row) -> Key:
        return tuple(row[place] for place in self.key_places)

    def from_sqlite(self, rows: Iterable[Row]) -> list[Row]:
        """As PostgreSQL has them. Texts and JSON are the same characters on both sides, numbers the same 64 bits."""
        if not self.booleans:
            return list(rows)
        return [
            tuple(
                bool(value) if place in self.booleans and value is not None else value
                for place, value in enumerate(row)
            )
            for row in rows
        ]


TABLES: Final = tuple(CopiedTable.of(table) for table in metadata.tables.values())
BY_NAME: Final = {table.name: table for table in TABLES}


@dataclass(slots=True)
class Checksum:
    """Of rows in whatever order they are read: the sum of their SHA-256 digests modulo 2²⁵⁶. A row's text is JSON."""

    rows: int = 0
    total: int = 0

    def add(self, rows: Sequence[Row]) -> None:
        digests = (hashlib.sha256(_encode(row)).digest() for row in rows)
        self.total = (self.total + sum(int.from_bytes(digest) for digest in digests)) % _MODULUS
        self.rows += len(rows)

    def __str__(self) -> str:
        return f"{self.total:064x}"

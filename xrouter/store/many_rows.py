"""One statement for many rows: SQLite opens its tables and indexes once, and the interpreter's lock changes hands once.

Many rows are taken in powers of two, so that few statements are prepared, however large a batch is. Most batches are small,
and have one statement.

A statement that fails leaves what it has written so far (`OR FAIL`), and SQLite need not keep what it would take back: 3 µs
of a statement of four rows. Its transaction has to be rolled back.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

from xrouter.store.retention import Execute

_SIZES: Final = (64, 32, 16, 8, 7, 6, 5, 4, 3, 2, 1)


class ManyRows:
    """`sql`: of a number of rows, with `?` for each value of each row in turn."""

    def __init__(self, sql: Callable[[int], str]) -> None:
        self._sql = cache(sql)

    def write(self, execute: Execute, rows: Sequence[Sequence[Any]]) -> int:
        """Returns how many rows of the table were changed."""
        changed = written = 0
        for size in _SIZES:
            while len(rows) - written >= size:
                values = chain.from_iterable(rows[written : written + size])
                changed += execute(self._sql(size), tuple(values)).rowcount
                written += size
        return changed


def inserted(one: str) -> ManyRows:
    """From an INSERT of one row: `INSERT … VALUES (?, …)`, and what follows."""
    before, rest = one.replace("INSERT INTO", "INSERT OR FAIL INTO", 1).split("VALUES ", 1)
    row, after = rest.split(")", 1)
    return ManyRows(lambda rows: f"{before}VALUES {', '.join([f'{row})'] * rows)}{after}")


def updated(table: str, key: str, changed: Sequence[str], guarded: Sequence[str]) -> ManyRows:
    """A row's values: of its key, the new ones of `changed`, then those that `guarded` must still have to be updated."""

    def update(value: Callable[[int], str], source: str) -> str:
        new = ", ".join(f"{name} = {value(number)}" for number, name in enumerate(changed, 2))
        old = [f"{table}.{name} = {value(number)}" for number, name in enumerate(guarded, 2 + len(changed))]
        found = " AND ".join([f"{table}.{key} = {value(1)}", *old])
        return f"UPDATE OR FAIL {table} SET {new}{source} WHERE {found}"  # noqa: S608  names of the schema

    def sql(rows: int) -> str:
        if rows == 1:
            return update("?{}".format, "")
        row = f"({', '.join('?' * (1 + len(changed) + len(guarded)))})"
        return update("new.column{}".format, f" FROM (VALUES {', '.join([row] * rows)}) AS new")

    return ManyRows(sql)

"""Statements of many rows against a table of SQLite."""

import sqlite3
from collections.abc import Iterator

import pytest

from xrouter.store.many_rows import inserted, updated

ADD = inserted("INSERT INTO t (name, a, b) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET b = t.b + excluded.b")
CHANGE = updated("t", "name", ("a", "b"), ("b",))


@pytest.fixture
def table() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (name TEXT PRIMARY KEY, a INTEGER, b INTEGER)")
    yield connection
    connection.close()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 31, 64, 65, 200])
def test_each_row_is_written_once(table: sqlite3.Connection, count: int) -> None:
    said: list[str] = []
    table.set_trace_callback(said.append)
    rows = [(f"n{number}", number, 1) for number in range(count)]
    assert ADD.write(table.execute, rows) == count
    assert len(said) == count // 64 + (count % 64 // 8).bit_count() + (count % 8 > 0)
    assert sorted(table.execute("SELECT * FROM t")) == sorted(rows)
    assert ADD.write(table.execute, rows) == count
    assert set(table.execute("SELECT b FROM t")) <= {(2,)}
    changed = [(f"n{number}", -number, 7, 2) for number in range(count)]
    assert CHANGE.write(table.execute, changed) == count
    assert sorted(table.execute("SELECT * FROM t")) == sorted((name, a, b) for name, a, b, _ in changed)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_row_that_is_no_longer_as_it_was_read_is_not_updated(table: sqlite3.Connection, count: int) -> None:
    ADD.write(table.execute, [(f"n{number}", 0, 1) for number in range(count)])
    table.execute("UPDATE t SET b = 5 WHERE name = 'n0'")
    assert CHANGE.write(table.execute, [(f"n{number}", 9, 9, 1) for number in range(count)]) == count - 1
    assert table.execute("SELECT a, b FROM t WHERE name = 'n0'").fetchone() == (0, 5)

"""The ledger's SQL for PostgreSQL. What it does and why: xrouter/store/pg_tables.py.

Rows go in as one array a column (`unnest`), so that a statement's text does not depend on how many there are and its plan is
kept. Rows come back as JSON, one text a table, so that one statement reads from all tables.
"""

from collections.abc import Sequence
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import BigInteger, Integer, Table
from sqlalchemy.types import TypeEngine

from xrouter.store.ledger_rows import Entry, Generation, UsagePlace, UsageSum
from xrouter.store.schema import accounts, entries, generations, holds, key_usage, prices, usage_days, usage_hours

_HOURS: Final = 24  # of a day
_MOST_DEAD: Final = 1000  # holds that one batch ends
_ACCOUNT: Final = ("name", "kind", "balance_nano", "held_nano", "floor_nano")
_HOLD: Final = tuple(holds.columns.keys())
_KEY: Final = tuple(key_usage.columns.keys())
_SPENT: Final = tuple(name for name in _KEY if name not in ("key_hash", "day"))
_SUMMED: Final = UsageSum.__struct_fields__
NEW_HOLD: Final = attrgetter(*_HOLD)
KEY_USAGE: Final = attrgetter(*_KEY)
SUM: Final = attrgetter(*_SUMMED)


def _list(names: Sequence[str], of: str = "") -> str:
    return ", ".join(f"{of}{name}" for name in names)


def _arrays(table: Table, names: Sequence[str]) -> tuple[str, ...]:
    """The type of each column's array."""

    def array(kind: TypeEngine[Any]) -> str:
        match kind:
            case BigInteger():
                return "bigint[]"
            case Integer():
                return "integer[]"
            case _:
                return "text[]"

    return tuple(array(table.c[name].type) for name in names)


# Reading. $1 generations of holds, $2 generations, $3 accounts, $4 keys, $5 today, $6 idempotency keys, $7 refunded.
READ: Final = f"""
WITH held AS MATERIALIZED (SELECT {_list(_HOLD)} FROM holds WHERE generation_id = ANY($1::text[])),
asked AS MATERIALIZED (
  SELECT wanted.key_hash, coalesce(key_roots.root, wanted.key_hash) AS root
  FROM (SELECT DISTINCT unnest($4::text[] || ARRAY(SELECT key_hash FROM held)::text[]) AS key_hash) wanted
  LEFT JOIN key_roots ON key_roots.key_hash = wanted.key_hash)
SELECT
 (SELECT json_agg(held)::text FROM held),
 (SELECT json_agg(found)::text FROM (
   SELECT {_list(_ACCOUNT)} FROM accounts WHERE name = ANY($3::text[] || ARRAY(SELECT account FROM held)::text[])) found),
 (SELECT json_agg(found)::text FROM (
   SELECT chain.root AS key_hash, {_list([f"coalesce(spent.{name}, 0) AS {name}" for name in _SPENT])},
          coalesce(spent.day, $5) AS day
   FROM (SELECT DISTINCT root FROM asked) chain
   LEFT JOIN key_usage spent ON spent.key_hash = chain.root) found),
 (SELECT json_agg(json_build_array(
   asked.key_hash, json_build_array(asked.root, api_keys.limit_nano, api_keys.limit_reset)))::text
  FROM asked LEFT JOIN api_keys ON api_keys.hash = asked.key_hash),
 (SELECT json_agg(json_build_array({_list(Generation._fields)}))::text FROM generations WHERE id = ANY($2::text[])),
 (SELECT json_agg(json_build_array({_list(Entry._fields)}))::text FROM entries WHERE idempotency_key = ANY($6::text[])),
 (SELECT json_agg(json_build_array(found.id, found.nano))::text FROM (
   SELECT generation_id AS id, sum(amount_nano) AS nano FROM entries
   WHERE kind = 'refund' AND generation_id = ANY($7::text[]) GROUP BY generation_id) found)
"""

# $1 now, $2 the longest lease. A lease that ends later than any can was written by a clock that has been set back since.
EXPIRE: Final = f"""
WITH cut AS (UPDATE holders SET lease_until_us = $1::bigint + $2::bigint WHERE lease_until_us > $1::bigint + $2::bigint)
SELECT json_agg(dead.generation_id)::text FROM (
  SELECT holds.generation_id FROM holds LEFT JOIN holders ON holders.id = holds.holder
  WHERE holds.state = 'open' AND (holders.lease_until_us <= $1::bigint OR (
    holders.id IS NULL AND (holds.opened_at_us <= $1::bigint - $2::bigint OR holds.opened_at_us > $1::bigint)))
  LIMIT {_MOST_DEAD}) dead
"""
FORGET_DEAD_HOLDERS: Final = """
DELETE FROM holders WHERE lease_until_us <= $1
AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.holder = holders.id AND holds.state = 'open')
"""
RENEW: Final = """
INSERT INTO holders (id, lease_until_us) VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET lease_until_us = excluded.lease_until_us
"""
# $1 the day before which sums by hour are dropped. Answers how many rows of the first such day there were.
ROLL_UP: Final = f"""
WITH first AS (SELECT min(hour) / {_HOURS} AS day FROM usage_hours),
old AS (
  DELETE FROM usage_hours USING first
  WHERE first.day < $1::integer AND hour >= first.day * {_HOURS} AND hour < (first.day + 1) * {_HOURS} RETURNING first.day),
upto AS (
  INSERT INTO retention (subject, upto) SELECT 'hours', lpad(max(day)::text, 8, '0') FROM old HAVING count(*) > 0
  ON CONFLICT (subject) DO UPDATE SET upto = greatest(retention.upto, excluded.upto))
SELECT count(*) FROM old
"""
# Retention: $1 a generation's id, $2 how many rows at once. They answer how many rows that were. xrouter/store/retention.py
DROP_HOLDS: Final = """
WITH old AS (
  SELECT generation_id FROM holds WHERE generation_id < $1 AND state <> 'open' ORDER BY generation_id LIMIT $2),
dropped AS (DELETE FROM holds USING old WHERE holds.generation_id = old.generation_id),
upto AS (
  INSERT INTO retention (subject, upto) SELECT 'holds', max(generation_id) FROM old HAVING count(*) > 0
  ON CONFLICT (subject) DO UPDATE SET upto = excluded.upto)
SELECT count(*) FROM old
"""
DROP_DETAILS: Final = """
WITH old AS (
  SELECT id FROM generations WHERE id < $1
  AND id > coalesce((SELECT upto FROM retention WHERE subject = 'details'), '') ORDER BY id LIMIT $2),
dropped AS (UPDATE generations SET details = '' FROM old WHERE generations.id = old.id),
upto AS (
  INSERT INTO retention (subject, upto) SELECT 'details', max(id) FROM old HAVING count(*) > 0
  ON CONFLICT (subject) DO UPDATE SET upto = excluded.upto)
SELECT count(*) FROM old
"""


def _insert(table: Table, names: Sequence[str], tail: str = "") -> str:
    return f"INSERT INTO {table.name} ({_list(names)}) SELECT * FROM unnest({{}}) {tail}"


def _sums(table: Table) -> tuple[str, tuple[str, ...]]:
    names = (table.columns.keys()[0], *UsagePlace._fields[1:], *_SUMMED)
    added = _list([f"{name} = {table.name}.{name} + excluded.{name}" for name in _SUMMED])
    place = _list(names[: len(UsagePlace._fields)])
    return _insert(table, names, f"ON CONFLICT ({place}) DO UPDATE SET {added}"), _arrays(table, names)


class Part(Enum):
    """What is written of one table: its SQL, with `{}` for the arrays, and their types.

    Guarded ones change rows on the condition that they still are as they were read: if fewer are, a race is lost.
    """

    PRICES = _insert(prices, prices.columns.keys(), "ON CONFLICT DO NOTHING"), _arrays(prices, prices.columns.keys())
    NEW_HOLDS = _insert(holds, _HOLD), _arrays(holds, _HOLD)
    HOLDS = (
        "UPDATE holds SET amount_nano = new.amount, state = new.state, closed_at_us = new.closed_at"
        " FROM unnest({}) AS new (id, amount, state, closed_at, read_state)"
        " WHERE holds.generation_id = new.id AND holds.state = new.read_state",
        _arrays(holds, ("generation_id", "amount_nano", "state", "closed_at_us", "state")),
        True,
    )
    ENTRIES = _insert(entries, Entry._fields), _arrays(entries, Entry._fields)
    GENERATIONS = _insert(generations, Generation._fields), _arrays(generations, Generation._fields)
    HOURS = _sums(usage_hours)
    DAYS = _sums(usage_days)
    KEYS = (
        _insert(
            key_usage,
            _KEY,
            "ON CONFLICT (key_hash) DO UPDATE SET " + _list([f"{name} = excluded.{name}" for name in _KEY[1:]]),
        ),
        _arrays(key_usage, _KEY),
    )
    NEW_ACCOUNTS = (
        _insert(accounts, (*_ACCOUNT, "created_at_us")),
        _arrays(accounts, (*_ACCOUNT, "created_at_us")),
    )
    ACCOUNTS = (
        "UPDATE accounts SET balance_nano = new.balance, held_nano = new.held"
        " FROM unnest({}) AS new (name, balance, held, read_balance, read_held)"
        " WHERE accounts.name = new.name AND balance_nano = new.read_balance AND held_nano = new.read_held",
        _arrays(accounts, ("name", "balance_nano", "held_nano", "balance_nano", "held_nano")),
        True,
    )

    def __init__(self, sql: str, arrays: tuple[str, ...], guarded: bool = False) -> None:
        self.sql = sql
        self.arrays = arrays
        self.guarded = guarded


@cache
def write_sql(parts: tuple[Part, ...]) -> str:
    """One statement that writes all of them and answers with each one's number of rows.

    A batch has one of a few combinations, so the texts are few and stay prepared.
    """
    clauses: list[str] = []
    at = 1
    for part in parts:  # its number is its name: that of a table would hide the table from the other parts
        arrays = ", ".join(f"${at + number}::{kind}" for number, kind in enumerate(part.arrays))
        clauses.append(f"part{len(clauses)} AS ({part.sql.format(arrays)} RETURNING 1)")
        at += len(part.arrays)
    counts = ", ".join(f"(SELECT count(*) FROM part{number})" for number in range(len(parts)))
    return f"WITH {', '.join(clauses)} SELECT {counts}"

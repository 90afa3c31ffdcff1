"""Forgetting what is old: holds that have ended, and the details of generations. Entries and generations stay for ever.

A little at a time, so that no settlement waits for it. Generations' ids are ordered by time, so an age is a range of ids;
how far it has been walked through is kept in `retention`, and the proof tells it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from xrouter.ids import first_generation_id
from xrouter.store.schema import retention

DROPPED: Final = ""
"""`generations.details` of a generation whose details were dropped."""

_STAMP: Final = slice(4, 16)  # where a generation's id has its milliseconds
AT_ONCE: Final = 200  # rows; about a millisecond


class Cursor(Protocol):
    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...


Execute = Callable[[str, Sequence[Any]], Cursor]
"""Runs one statement; `?` stands for a parameter."""

_SOME_HOLDS: Final = (
    "SELECT max(generation_id) FROM (SELECT generation_id FROM holds WHERE generation_id < ?"
    " AND state <> 'open' ORDER BY generation_id LIMIT ?) AS some"
)
_DROP_HOLDS: Final = "DELETE FROM holds WHERE generation_id <= ? AND state <> 'open'"
_SOME_DETAILS: Final = (
    "SELECT max(id) FROM (SELECT id FROM generations WHERE id > ? AND id < ? ORDER BY id LIMIT ?) AS some"
)
_DROP_DETAILS: Final = "UPDATE generations SET details = '' WHERE id > ? AND id <= ? AND details <> ''"
_READ_UPTO: Final = "SELECT upto FROM retention WHERE subject = ?"
_WRITE_UPTO: Final = (
    "INSERT INTO retention (subject, upto) VALUES (?, ?) ON CONFLICT (subject) DO UPDATE SET upto = excluded.upto"
)


def drop_holds(execute: Execute, before_us: int) -> int:
    """Drop some ended holds of requests that came before; returns how many: 0 when none is left."""
    (last,) = execute(_SOME_HOLDS, (first_generation_id(before_us), AT_ONCE)).fetchone()
    if last is None:
        return 0
    dropped = execute(_DROP_HOLDS, (last,)).rowcount
    execute(_WRITE_UPTO, ("holds", last))
    return dropped


def drop_details(execute: Execute, before_us: int) -> int:
    """Drop the details of some generations that began before; returns how many were looked at: 0 when none is left."""
    (after,) = execute(_READ_UPTO, ("details",)).fetchone() or ("",)
    (last,) = execute(_SOME_DETAILS, (after, first_generation_id(before_us), AT_ONCE)).fetchone()
    if last is None:
        return 0
    execute(_DROP_DETAILS, (after, last))
    execute(_WRITE_UPTO, ("details", last))
    return AT_ONCE


def note_dropped_hours(execute: Execute, day: int) -> None:
    """Sums by hour of that day are dropped. Should a clock be set back into it, they begin anew and are not whole."""
    (upto,) = execute(_READ_UPTO, ("hours",)).fetchone() or ("",)
    execute(_WRITE_UPTO, ("hours", max(upto, f"{day:08d}")))


async def read_dropped(connection: AsyncConnection) -> AsyncIterator[tuple[str, str]]:
    """What has been dropped, and up to when: ISO 8601, UTC."""
    query = select(retention).where(retention.c.subject != "hours").order_by(retention.c.subject)
    for subject, upto in await connection.execute(query):
        at = datetime.fromtimestamp(int(upto[_STAMP], 16) / 1000, UTC)
        yield subject, at.isoformat(timespec="seconds")

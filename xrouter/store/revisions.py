"""Counters that move with every change of a thing, so that other processes see with one small read that theirs is old."""

from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.store.schema import revisions

Thing = Literal["keys"]


async def bump(connection: AsyncConnection, thing: Thing) -> None:
    """Move the revision of `thing`, in the transaction of the change itself."""
    changed = await connection.execute(
        update(revisions).where(revisions.c.name == thing).values(value=revisions.c.value + 1)
    )
    assert changed.rowcount == 1, "the migrations made a row for every thing that has a revision"


async def read(engine: AsyncEngine, thing: Thing) -> int:
    """The revision of `thing`. It is compared for equality only: a restored backup may have set it back."""
    async with engine.connect() as connection:
        value: int | None = await connection.scalar(select(revisions.c.value).where(revisions.c.name == thing))
    assert value is not None, "the migrations made a row for every thing that has a revision"
    return value

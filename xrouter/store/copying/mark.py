"""The mark that a copy leaves in both of its stores, so that no gateway ever writes to two of them, or to half a one.

It is the one row of the table `copying`, which only stores that took part in a copy have. The store that is left also has
triggers that refuse every change: they bind processes that have been running on it for long, of whatever version.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.engine import MOVED, StoreError, describe

_log = logging.getLogger(__name__)

Phase = Literal["source", "moved", "filling", "complete", "withdrawn"]
"""The source is copied from, then moved away from. The target is filled, then complete, or withdrawn by the way back."""

_LOOK_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Mark:
    """`other`: the store at the other end, without its password."""

    copy_id: str
    phase: Phase
    other: str


async def read_mark(engine: AsyncEngine) -> Mark | None:
    """None for a store that no copy has begun on."""
    async with engine.connect() as connection:
        if not await connection.run_sync(lambda sync: inspect(sync).has_table("copying")):
            return None
        row = (await connection.execute(text("SELECT copy_id, phase, other FROM copying"))).one_or_none()
    return None if row is None else Mark(*row)


async def require_in_use(engine: AsyncEngine, *, keep_waiting: bool) -> None:
    """Raise StoreError for a store that has moved away, or that a copy into has not come to its end.

    With `keep_waiting` the latter is waited for: a gateway takes over as soon as it may.
    """
    told = False
    while (mark := await read_mark(engine)) is not None and mark.phase not in ("source", "complete"):
        if mark.phase == "moved":
            raise StoreError(f"the store {describe(engine)} {MOVED} {mark.other}: name that one in `store`")
        if mark.phase == "withdrawn":
            raise StoreError(f"the store {describe(engine)} was left again for {mark.other}: name that one in `store`")
        if not keep_waiting:
            raise StoreError(
                f"the store {describe(engine)} is being filled from {mark.other}; `xrouter db copy` has not come to its end"
            )
        if not told:
            _log.warning("waiting until `xrouter db copy` has filled the store %s", describe(engine))
            told = True
        await asyncio.sleep(_LOOK_AGAIN_S)

"""The way back to a store that was copied, as long as nothing has happened in the other one."""

from typing import Final

from xrouter.store.copying.ends import Ends
from xrouter.store.copying.mark import Mark
from xrouter.store.copying.source import Source
from xrouter.store.copying.tables import BY_NAME, TABLES
from xrouter.store.copying.target import Target
from xrouter.store.engine import StoreError

_FIRST: Final = "holders"  # a gateway writes there when it starts: who looks there first sees soon that it was used


async def give_up(source: Source, mark: Mark | None) -> bool:
    """End a copy that has not moved the source: changes are noted no more. False if the source has moved.

    Raises StoreError if there is no copy.
    """
    if mark is None:
        raise StoreError(f"the store {source.path} has not been copied")
    if mark.phase == "moved":
        return False
    await source.forget()
    return True


async def go_back(ends: Ends) -> None:
    """Let the source be written to again, and the target no more. Raises StoreError if the target has been used.

    The target refuses changes from a commit on that comes before the source's; killed in between, this can be done again.
    """
    here, there = ends.source_mark, ends.target_mark
    if here is None or there is None or there.copy_id != here.copy_id:
        raise StoreError(f"the store {ends.target.description} is not the one that {ends.source.path} has moved to")
    await _require_same(ends.source, ends.target)
    async with ends.target.withdrawing(str(ends.source.path)):
        await _require_same(ends.source, ends.target)
    await ends.source.forget()


async def _require_same(source: Source, target: Target) -> None:
    first = BY_NAME[_FIRST]
    for table in (first, *(table for table in TABLES if table is not first)):
        if await source.checksum(table) != await target.checksum(table):
            raise StoreError(
                f"the store {target.description} has been used since: {table.name} differs. What happened there would be"
                " lost; --force goes back without it"
            )

"""The copy of a running store, step by step. `Copier` has the argument why nothing is lost, doubled or half done."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.copying.ends import Ends
from xrouter.store.copying.mark import Mark
from xrouter.store.copying.source import Changes
from xrouter.store.copying.tables import TABLES, Checksum
from xrouter.store.copying.target import Filled
from xrouter.store.engine import StoreError, describe, reason
from xrouter.store.migrate import upgrade

_FEW: Final = 500  # rows that are copied and compared in some tens of milliseconds
_ROUNDS: Final = 50  # to come so close to a gateway that goes on writing
_SWITCHES: Final = 10

Prove = Callable[[AsyncEngine], Awaitable[tuple[str, ...]]]
"""What is wrong with the ledger in a store, one sentence each."""
Tell = Callable[["Step"], object]


@dataclass(frozen=True, slots=True)
class Step:
    """What is being done; of `total` rows so many are `done`. `total` is 0 where rows are not counted."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class CopiedRows:
    """`checksum` is that of both sides; `xrouter.store.copying.tables.Checksum`."""

    name: str
    rows: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Report:
    """`tables`: as they were compared as a whole; the `changes` that came later were compared row by row.

    `pause_s`: how long nobody could write, until the target could be written to.
    """

    source: str
    target: str
    copy_id: str
    tables: tuple[CopiedRows, ...]
    changes: int
    pause_s: float
    duration_s: float


class Copier:
    """Copies while gateways write to the source, then moves them off it.

    1. Triggers in the source note the key of each row that changes. Only then is the first row read.
    2. All tables are read in the order of their keys. Each batch and how far it goes are one transaction of the target.
    3. The noted rows are read again and replaced in the target: with every note of one snapshot applied, the target is
       equal to that snapshot. So it is compared with it, whole, by checksums, and the ledger is proven on both sides.
    4. From then on each row that changes is compared one by one, when it has been applied.
    5. With few notes left, the source's write lock is taken; the last notes are applied and compared; the commit that gives
       the lock back leaves triggers by which the source refuses every change. The target becomes complete after that.

    So each row is compared after its last change, and there is no moment at which both stores can be written to. Killed at
    any point, the source is in use, or the target only lacks to be called complete; `resume` goes on from there.
    """

    def __init__(self, ends: Ends, prove: Prove, tell: Tell, *, batch: int, max_pause_s: float) -> None:
        self._ends = ends
        self._source = ends.source
        self._target = ends.target
        self._prove = prove
        self._tell = tell
        self._batch = batch
        self._max_pause_s = max_pause_s
        self._applied = 0
        self._changes = 0

    async def run(self, *, resume: bool) -> Report:
        """Raises StoreError: then nothing has moved, unless the message says so."""
        began = time.monotonic()
        mark = await self._begin(resume)
        moved = mark.phase == "moved"
        self._applied = await self._target.applied()
        await self._fill()
        async with self._source.snapshot():
            await self._apply(compare=False)
        self._tell(Step("making indexes"))
        await self._target.index(lambda name: self._tell(Step(f"making the index {name}")))
        tables = await self._compare_all()
        await self._prove_both()
        pause_s = await self._finish() if moved else await self._switch()
        await self._source.drop_notes()
        return Report(
            source=str(self._source.path),
            target=self._target.description,
            copy_id=mark.copy_id,
            tables=tables,
            changes=self._changes,
            pause_s=round(pause_s, 3),
            duration_s=round(time.monotonic() - began, 1),
        )

    async def _begin(self, resume: bool) -> Mark:
        """A copy that is under way, or a new one. The source is marked first: a target is of a copy that it knows."""
        found = await self._ends.under_way()
        if found is not None:
            if not resume:
                raise StoreError(
                    f"a copy of {self._source.path} into {self._target.description} has begun; --resume goes on with it"
                )
            return found
        if self._ends.target_is_bare:
            try:
                await upgrade(self._ends.target_engine)
            except (SQLAlchemyError, OSError) as error:
                raise StoreError(f"the store {self._target.description}: {reason(error)}") from error
        copy_id = secrets.token_hex(16)
        mark = Mark(copy_id, "source", self._target.description)
        await self._source.begin(mark)
        await self._target.begin(Mark(copy_id, "filling", describe(self._ends.source_engine)))
        return mark

    async def _fill(self) -> None:
        counts = await self._source.counts()
        states = await self._target.filled()
        total, done = sum(counts.values()), sum(state.rows for state in states.values())
        for table in TABLES:
            state = states.get(table.name, Filled(None, 0, False))
            while not state.done:
                rows = await self._source.batch(table, state.after, self._batch)
                after = table.key_of(rows[-1]) if rows else state.after
                state = Filled(after, state.rows + len(rows), len(rows) < self._batch)
                await self._target.fill(table, rows, state)
                done += len(rows)
                self._tell(Step(f"copying {table.name}", done, max(total, done)))

    async def _apply(self, *, compare: bool) -> int:
        """All changes of the snapshot or lock that is held; returns how many rows."""
        count = 0
        while (changes := await self._source.changes(self._applied, self._batch)).upto > self._applied:
            await self._target.apply(changes)
            if compare:
                await self._compare(changes)
            self._applied = changes.upto
            count += changes.count
            self._changes += changes.count
        return count

    async def _compare(self, changes: Changes) -> None:
        for table, rows in changes.rows.items():
            there = await self._target.rows(table, list(rows))
            differing = [key for key, row in rows.items() if there.get(key) != row]
            if differing:
                raise StoreError(f"the copy differs: {len(differing)} rows of {table.name}, such as {differing[0]}")

    async def _compare_all(self) -> tuple[CopiedRows, ...]:
        """The target against one snapshot of the source."""
        copied = []
        async with self._source.snapshot():
            await self._apply(compare=False)
            for table in TABLES:
                self._tell(Step(f"comparing {table.name}"))
                here, there = await self._source.checksum(table), await self._target.checksum(table)
                if here != there:
                    raise StoreError(_difference(table.name, here, there))
                copied.append(CopiedRows(table.name, here.rows, str(here)))
        return tuple(copied)

    async def _prove_both(self) -> None:
        for engine in (self._ends.source_engine, self._ends.target_engine):
            self._tell(Step(f"proving the ledger in {describe(engine)}"))
            try:
                problems = await self._prove(engine)
            except (SQLAlchemyError, OSError) as error:
                raise StoreError(f"the store {describe(engine)} cannot be read: {reason(error)}") from error
            if problems:
                raise StoreError(
                    f"the ledger in {describe(engine)} is not right ({len(problems)} problems, the first: {problems[0]});"
                    " nothing has moved. `xrouter db check` shows all"
                )

    async def _switch(self) -> float:
        for _ in range(_SWITCHES):
            await self._come_close()
            self._tell(Step("moving"))
            try:
                async with self._source.locked():
                    began = time.monotonic()
                    async with asyncio.timeout(self._max_pause_s):
                        await self._apply(compare=True)
                        await self._target.number_on()
                    await self._source.leave(self._target.description)
            except TimeoutError:
                continue
            await self._complete()
            return time.monotonic() - began
        raise StoreError(
            f"the last changes could not be copied within {self._max_pause_s:g} s, in {_SWITCHES} attempts; nothing has"
            " moved. --max-pause allows more, --resume goes on"
        )

    async def _come_close(self) -> None:
        """Until only few changes are left, whose copying nobody needs to wait for long."""
        for _ in range(_ROUNDS):
            async with self._source.snapshot():
                self._tell(Step("copying the last changes"))
                if await self._apply(compare=True) <= _FEW:
                    return

    async def _finish(self) -> float:
        """For a copy that was killed when the source had moved already. Returns 0: nobody waits for a pause to end."""
        async with self._source.snapshot():
            await self._apply(compare=True)
        await self._target.number_on()
        await self._complete()
        return 0.0

    async def _complete(self) -> None:
        try:
            await self._target.complete()
        except StoreError as error:
            raise StoreError(f"{error}. The source has moved; run this again with --resume, or with --back") from error


def _difference(name: str, here: Checksum, there: Checksum) -> str:
    if here.rows != there.rows:
        return f"the copy differs: {name} has {here.rows} rows in the source and {there.rows} in the target"
    return f"the copy differs: the {here.rows} rows of {name} are not the same on both sides"

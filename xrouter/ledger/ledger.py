"""The ledger of one process: operations grouped into batches, holds kept alive, those of dead processes ended.

Batches are natural: an operation that comes while nothing is being written is written in the same turn of the event loop;
what comes while a batch is under way, or in the turn that it ends in, makes the next one. No timer makes a lone request
wait.

What must happen is done by tasks that belong to the ledger (style lesson 9): a request that is cancelled while it settles is
settled all the same, and `aclose` waits for that.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

from xrouter import ids
from xrouter.errors import StoreUnavailable, XRouterError
from xrouter.ledger.books import Books
from xrouter.ledger.credits_left import CreditsLeft
from xrouter.ledger.journal import Journal
from xrouter.ledger.limits import SpendingLimit
from xrouter.ledger.operations import (
    Balance,
    Expire,
    ExtendHold,
    HoldGranted,
    OpenHold,
    Operation,
    Prune,
    ReleaseHold,
    Renew,
    Result,
    RollUp,
    Settled,
    Settlement,
    TakeBack,
    Transfer,
)
from xrouter.ledger.presence import Presence
from xrouter.ledger.sweeper import Sweeper
from xrouter.world import World

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
KEEP_ALL: Final = Prune(None, None)
_MOST_IN_BATCH: Final = 512
_MOST_AFTER_FAILURES: Final = 16
_RETRY_FOR_S: Final = 1.2  # while the store fails, a settlement is tried again for so long (F14)
_FIRST_RETRY_S: Final = 0.05


class Ledger:
    """`start()` before the first request; `aclose()` after the last. `lease_s`: the longest a dead process's hold stays.

    `journal` keeps settlements that the store could not take; without one, they fail. `retention`: what the sweeper drops.
    """

    def __init__(
        self,
        books: Books,
        world: World,
        *,
        lease_s: float,
        journal: Journal | None = None,
        presence: Presence | None = None,
        retention: Prune = KEEP_ALL,
    ) -> None:
        self.holder = ids.time_ordered(world)
        self._books = books
        self._world = world
        self._lease_us = round(lease_s * 1e6)
        self._journal = journal
        self._presence = presence
        self._retention = retention
        self._waiting: deque[tuple[Operation, asyncio.Future[Result]]] = deque()
        self._put_off: deque[Operation] = deque()
        self._writing = False
        self._most = _MOST_IN_BATCH  # halved where a batch fails: a starved store may not write a large one in time
        self._under_way: asyncio.Future[list[Result | XRouterError]] | None = None
        self._idle: asyncio.Future[None] | None = None  # for whom waits until nothing is being written
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for the running one is a system call each time
        self._owned: set[asyncio.Task[Any]] = set()
        self._resettling: dict[str, asyncio.Task[Settled]] = {}  # by generation: settlements in trouble, or unattended
        self._sweeper = Sweeper(self, world, lease_s)
        self._closed = False
        self.credits_left = CreditsLeft()
        self.batches = 0  # committed: a metric, with `operations`
        self.operations = 0
        self.journaled = 0  # settlements that had to go to the journal

    async def start(self) -> None:
        """Settle what dead processes have journaled, end their holds, begin to sweep. Raises StoreUnavailable.

        Where others serve on this host, it is they who end the holds of the dead, until this process has seen a lease go by.
        """
        try:
            alone = self._presence is None or self._presence.enter()
        except OSError as error:
            raise StoreUnavailable(detail=f"{error.filename}: {error.strerror}") from error
        try:
            await self.renew()
            await self.recover_journals()
            if alone:
                await self.expire()
        except StoreUnavailable:
            if self._presence is not None:
                self._presence.leave()  # who starts it again enters again
            raise
        self._sweeper.start(others_sweep=not alone)

    async def aclose(self) -> None:
        """Wait until everything that has been asked for is done. Closing twice does nothing more."""
        if self._closed:
            return
        self._closed = True
        await self._sweeper.aclose()
        while self._owned or self._writing:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait((*self._owned, *([self._idle] if self._writing else ())))
        try:
            await self.recover_journals()
            await self.catch_up()
        except XRouterError as error:
            _log.error("not all could be settled to the end; the journal keeps it: %s", error.detail or error)
        if self._journal is not None:
            await self._journal.aclose()
        await self._books.aclose()
        if self._presence is not None:
            self._presence.leave()

    async def hold(
        self,
        generation_id: str,
        account: str,
        key_hash: str,
        *,
        wanted_nano: int,
        least_nano: int,
        quota: tuple[SpendingLimit, ...] = (),
    ) -> HoldGranted:
        """Set credits aside for a request, within the account's balance, the key's own limit and its tier's `quota`.

        Raises PaymentRequired and StoreUnavailable: nothing is held then.

        Cancelled, or refused because the store failed, it leaves no hold, whatever became of the commit.
        """
        wanted = OpenHold(generation_id, account, key_hash, wanted_nano, least_nano, self.holder, quota)
        try:
            granted = cast(HoldGranted, await self._submit(wanted))
        except (asyncio.CancelledError, StoreUnavailable):
            self._own(self._undo_hold(generation_id))
            raise
        self.credits_left.note(key_hash, granted.payable_nano)
        return granted

    async def look(self, wanted: OpenHold) -> HoldGranted:
        """What a hold would be granted now (`wanted.look`). Raises what `hold` raises."""
        return cast(HoldGranted, await self._submit(wanted))

    async def extend(
        self, generation_id: str, *, more_nano: int, least_nano: int, quota: tuple[SpendingLimit, ...] = ()
    ) -> HoldGranted:
        """Let a hold grow. Raises PaymentRequired and StoreUnavailable."""
        return cast(HoldGranted, await self._submit(ExtendHold(generation_id, more_nano, least_nano, quota)))

    async def settle(self, settlement: Settlement, *, delivered: bool) -> Settled:
        """Charge a generation, once. Returns when that is durable. A caller who is cancelled cancels only his own waiting.

        Raises StoreUnavailable if it could be made so nowhere. If the client has a part of the answer (`delivered`), it is
        then settled as soon as the store is back; if it has nothing, it will be told so and its hold is released.
        """
        under_way = self._resettling.get(settlement.generation_id)
        if under_way is not None:  # asked again after a cancellation: what becomes of it is told once, to both alike
            return await asyncio.shield(under_way)
        try:
            return cast(Settled, await self._submit(settlement))
        except StoreUnavailable:
            return await asyncio.shield(self._resettle(settlement, self._settle_again(settlement, delivered)))
        except asyncio.CancelledError:
            self._resettle(settlement, self._settle_unattended(settlement, delivered))
            raise

    async def release(self, generation_id: str) -> None:
        """End a hold of which nothing is charged. While the store fails, that is put off."""
        await asyncio.shield(self._own(self._release(generation_id)))

    async def catch_up(self) -> None:
        """Do what was put off while the store failed. Raises StoreUnavailable if it still does.

        All at once, in batches: one after the other, an outage's many would keep the sweeper from renewing the lease.
        """
        while self._put_off:
            operations = list(self._put_off)
            self._put_off.clear()
            try:
                await asyncio.gather(*map(self._submit, operations))
            except BaseException:
                self._put_off.extendleft(reversed(operations))  # doing one again does nothing more
                raise

    async def transfer(self, transfer: Transfer) -> Balance:
        """Grant, adjust or refund. Raises BadRequest, NotFound and StoreUnavailable."""
        return cast(Balance, await self._submit(transfer))

    async def renew(self) -> None:
        """Say that this process lives."""
        await self._submit(Renew(self.holder, self._lease_us))

    async def expire(self) -> int:
        """End the holds of dead processes; returns how many there were."""
        total = 0
        while ended := cast(int, await self._submit(Expire(self._lease_us))):
            total += ended
        if total:
            _log.warning("%d holds of processes that are gone have expired", total)
        return total

    async def roll_up(self) -> None:
        """Drop old sums by hour, a day at a time, so that nobody waits for long."""
        while await self._submit(RollUp()):
            pass

    async def prune(self) -> None:
        """Drop what is older than it is to be kept, a little at a time: what comes meanwhile is in the next batch."""
        if self._retention != KEEP_ALL:
            while await self._submit(self._retention):
                pass

    async def recover_journals(self) -> int:
        """Settle what this and dead processes had to write to their journals; returns how many settlements."""
        if self._journal is None:
            return 0
        total = await self._journal.recover(self._submit)
        if total:
            _log.warning("%d journaled settlements are in the ledger now", total)
        return total

    async def _settle_again(self, settlement: Settlement, delivered: bool) -> Settled:
        """The store has failed: try for a while, then write to the journal."""
        deadline = self._world.monotonic() + _RETRY_FOR_S
        pause_s = _FIRST_RETRY_S
        while True:
            await self._world.sleep(pause_s)
            pause_s *= 2
            try:
                return cast(Settled, await self._submit(settlement))
            except StoreUnavailable as error:
                if self._world.monotonic() + pause_s >= deadline:
                    return await self._journaled(settlement, delivered, error)

    async def _settle_unattended(self, settlement: Settlement, delivered: bool) -> Settled:
        """The one who waited has been cancelled. What he asked for is done all the same: asked again, it is told how."""
        try:
            return cast(Settled, await self._submit(settlement))
        except StoreUnavailable:
            return await self._settle_again(settlement, delivered)

    async def _journaled(self, settlement: Settlement, delivered: bool, error: StoreUnavailable) -> Settled:
        try:
            if self._journal is None:
                raise error
            await self._journal.add(settlement)
        except StoreUnavailable:
            never_given = TakeBack(settlement.generation_id, settlement.account)
            self._put_off.append(settlement if delivered else never_given)
            raise
        self.journaled += 1
        return Settled(settlement.generation_id, settlement.cost_nano, settlement.cost_nano, 0)

    async def _release(self, generation_id: str) -> None:
        operation = ReleaseHold(generation_id)
        try:
            await self._submit(operation)
        except StoreUnavailable:
            self._put_off.append(operation)

    async def _undo_hold(self, generation_id: str) -> None:
        """Nobody waits for the hold. What is asked for later is done later: whatever became of it, it is ended here."""
        await self._release(generation_id)

    def _resettle(self, settlement: Settlement, work: Coroutine[Any, Any, Settled]) -> "asyncio.Task[Settled]":
        task = self._resettling[settlement.generation_id] = self._own(work)
        task.add_done_callback(lambda done: self._resettling.pop(settlement.generation_id, None))
        return task

    def _own(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.create_task(work)
        self._owned.add(task)
        task.add_done_callback(self._disowned)
        return task

    def _disowned(self, task: "asyncio.Task[Any]") -> None:
        self._owned.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, XRouterError):
            _log.error("an operation of the ledger failed", exc_info=error)

    def _submit(self, operation: Operation) -> "asyncio.Future[Result]":
        """Queued, an operation is carried out, whoever still waits for it, and after what was queued before it."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((operation, future))
        if not self._writing:
            self._writing = True
            loop.call_soon(self._write)
        return future

    def _write(self) -> None:
        """Begin with the next batch, if there is one."""
        waiting = self._waiting
        if waiting:
            batch = [waiting.popleft() for _ in range(min(len(waiting), self._most))]
            self._under_way = self._books.commit([operation for operation, _ in batch])
            self._under_way.add_done_callback(partial(self._written, batch))
            return
        self._under_way = None
        self._writing = False
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _written(
        self,
        batch: "list[tuple[Operation, asyncio.Future[Result]]]",
        committed: "asyncio.Future[list[Result | XRouterError]]",
    ) -> None:
        """Tell everybody. Whatever has happened, nobody who waits may wait for ever."""
        error = asyncio.CancelledError() if committed.cancelled() else committed.exception()
        results: Sequence[Result | XRouterError]
        if error is None:
            results = committed.result()
            self.batches += 1
            self.operations += len(batch)
            self._most = min(self._most * 2, _MOST_IN_BATCH)
        else:
            self._most = max(self._most // 2, _MOST_AFTER_FAILURES)
            if isinstance(error, Exception) and not isinstance(error, XRouterError):
                _log.error("a batch of the ledger failed", exc_info=error)
            failure = error if isinstance(error, StoreUnavailable) else StoreUnavailable(detail=repr(error))
            results = [failure] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.cancelled():
                continue
            if isinstance(result, XRouterError):
                future.set_exception(result)
                future.exception()  # a waiter who has gone leaves no complaint about an error that nobody saw
            else:
                future.set_result(result)
        committed.get_loop().call_soon(self._write)  # what else came in this turn of the loop belongs to the next batch

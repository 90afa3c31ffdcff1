"""Keeping the leases: this process renews its own, and ends the holds of processes that have not renewed theirs.

Several sweepers at once are harmless, and so is one that was stopped for an hour: what has expired is decided under the
write lock, by the time that is read under it. A process that was only slow finds its holds expired, and what it then settles
is an overrun (F41).
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from xrouter.errors import XRouterError
from xrouter.world import World

if TYPE_CHECKING:
    from xrouter.ledger.ledger import Ledger

_log = logging.getLogger(__name__)
_RENEWALS_IN_LEASE: Final = 4
_STEP_S: Final = 2.0  # a wall clock that moves by more than this against the monotonic one has been set


class Sweeper:
    def __init__(self, ledger: "Ledger", world: World, lease_s: float) -> None:
        self._ledger = ledger
        self._world = world
        self._lease_s = lease_s
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._offset = world.now() - world.monotonic()
        self._quiet_until = world.monotonic()

    def start(self, *, others_sweep: bool) -> None:
        """`others_sweep`: leave it to them for a lease. The clock may have been set before this process could see it."""
        if others_sweep:
            self._quiet_until = self._world.monotonic() + self._lease_s
        self._task = asyncio.create_task(self._run(), name="ledger sweeper")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._world.sleep(self._lease_s / _RENEWALS_IN_LEASE)
            try:
                await self.sweep()
            except XRouterError as error:
                if not self._failing:
                    _log.warning("the ledger cannot be swept: %s", error.detail or error)
                self._failing = True
                self._quiet_until = (
                    self._world.monotonic() + self._lease_s
                )  # others could not renew their leases either
            else:
                self._failing = False

    async def sweep(self) -> None:
        """One round. Raises StoreUnavailable."""
        await self._ledger.renew()
        await self._ledger.recover_journals()
        await self._ledger.catch_up()
        if not self._clock_was_set():
            await self._ledger.expire()
            await self._ledger.roll_up()
            await self._ledger.prune()

    def _clock_was_set(self) -> bool:
        """Leases end by the wall clock, the only one that processes share.

        When it was set, those of living processes may seem to have ended (F20): nothing expires until each had the time to
        renew its own under the new time.
        """
        now, offset = self._world.monotonic(), self._world.now() - self._world.monotonic()
        if abs(offset - self._offset) > _STEP_S:
            self._quiet_until = now + self._lease_s
            _log.warning(
                "the clock was set by %.0f s: no hold expires for %.0f s", offset - self._offset, self._lease_s
            )
        self._offset = offset
        return now < self._quiet_until

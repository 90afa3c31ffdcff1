"""Time and chance of one simulated process: virtual time, a wall clock that is set now and then, chance from the seed."""

import asyncio
import random

from simulation.virtual_loop import Scheduler

_BEGINS_AT = 1_799_971_020.0  # 2027-01-14 23:57 UTC: a day ends, and dated prices change, in the first minutes


class WallClock:
    """The one clock that processes share. It can be set, as clocks are."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._offset = _BEGINS_AT - scheduler.time
        self.set_at = float("-inf")  # monotonic, when it was set last

    def now(self) -> float:
        return self._scheduler.time + self._offset

    def set_by(self, seconds: float) -> None:
        self._offset += seconds
        self.set_at = self._scheduler.time


class VirtualWorld:
    """A `World` (xrouter/world.py)."""

    def __init__(self, scheduler: Scheduler, clock: WallClock, seed: int) -> None:
        chance = random.Random(seed)
        self._scheduler = scheduler
        self.now = clock.now
        self.random = chance.random
        self.random_bytes = chance.randbytes

    def monotonic(self) -> float:
        return self._scheduler.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

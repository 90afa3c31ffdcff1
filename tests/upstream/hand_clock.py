"""A `World` whose time stands still until the test moves it."""

import asyncio
import heapq
import random


class HandClock:
    """`advance` wakes the sleepers whose time has come, in order, and lets them run."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._random = random.Random(1)

    def now(self) -> float:
        return 1_790_000_000.0 + self._now

    def monotonic(self) -> float:
        return self._now

    def random(self) -> float:
        return self._random.random()

    def random_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, len(self._sleepers), woken))
        await woken

    def jump(self, seconds: float) -> None:
        """Time passes and nobody has woken yet: a loop that was held up."""
        self._now += seconds

    async def advance(self, seconds: float) -> None:
        until = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self._now = max(self._now, until)
        await settle()


async def settle() -> None:
    """Let every task run until it waits for something else."""
    for _ in range(10):
        await asyncio.sleep(0)

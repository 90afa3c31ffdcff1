"""Calls a second: some upstream APIs count those instead of simultaneous ones (Yandex: embeddings, tokenize)."""

import asyncio

from xrouter.errors import UpstreamError
from xrouter.world import World


class Pace:
    """Keeps calls of one kind at least `1 / rate` seconds apart, in the order of their coming. One process's own count."""

    def __init__(self, name: str, rate: float, queue_s: float, world: World) -> None:
        """`rate`: calls a second. `queue_s`: a call that would have to wait longer is refused at once."""
        if not rate > 0:
            raise ValueError(f"{name}: a pace must be above 0 calls a second")
        self._name = name
        self._interval_s = 1 / rate
        self._queue_s = queue_s
        self._world = world
        self._next = world.monotonic()
        self._turn = asyncio.Lock()  # FIFO, and a cancelled waiter leaves it without a trace
        self._waiting = 0

    async def wait(self) -> None:
        """Until this call's turn. A cancelled call gives its turn to the next.

        Raises UpstreamError (429, `rate_limit_exceeded`) if the queue is too long.
        """
        ahead_s = self._next - self._world.monotonic()
        if ahead_s <= 0 and not self._waiting:
            self._next = self._world.monotonic() + self._interval_s
            return
        expected_s = max(ahead_s, 0.0) + self._waiting * self._interval_s
        if expected_s > self._queue_s:
            raise UpstreamError(
                "The upstream takes no more calls of this kind at the moment",
                status=429,
                type="rate_limit_exceeded",
                retry_after_s=1.0,
                detail=f"{self._name}: {self._waiting} calls are waiting at {1 / self._interval_s:g} a second",
            )
        self._waiting += 1
        try:
            async with self._turn:
                remaining_s = self._next - self._world.monotonic()
                if remaining_s > 0:
                    await self._world.sleep(remaining_s)
                self._next = max(self._next, self._world.monotonic()) + self._interval_s
        finally:
            self._waiting -= 1

"""How many calls an upstream takes at a time, and who is next. GigaChat gives a personal account one stream: the queue for
it is part of the product, not an accident.

Places are handed over, never put up for grabs: a place that is freed while callers wait goes straight to the next one, so
a newcomer cannot overtake the queue.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType

from xrouter.errors import UpstreamError

_Queue = OrderedDict[asyncio.Future[None], None]  # a FIFO whose members can leave from the middle in O(1)


class Place:
    """`async with gate.place(key):` one place for the time of the block."""

    __slots__ = ("_gate", "_key")

    def __init__(self, gate: "Gate", key: str) -> None:
        self._gate = gate
        self._key = key

    async def __aenter__(self) -> None:
        await self._gate.acquire(self._key)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gate.release()


class Gate:
    """Room for `places` calls at a time (None: any number).

    Waiters of different keys (accounts) take turns; those of one key are served in the order of their coming. Bound to one
    event loop; every operation is O(1).
    """

    def __init__(self, name: str, places: int | None, queue_s: float) -> None:
        """`queue_s`: how long a caller waits for a place before it is refused."""
        self._name = name
        self._places = places
        self._queue_s = queue_s
        self._queues: OrderedDict[str, _Queue] = OrderedDict()  # by key; the first key is the next to be served
        self._spare: dict[Callable[[], object], None] = {}  # those who hold a spare place, oldest first
        self.active = 0
        self.waiting = 0

    @property
    def free(self) -> bool:
        """Whether a call would get a place at once."""
        return self._places is None or self.active < self._places

    def place(self, key: str) -> Place:
        return Place(self, key)

    def take(self) -> bool:
        """Take a place if one is free. Pair with `release`."""
        if self._places is None or self.active < self._places:
            self.active += 1
            return True
        return False

    async def acquire(self, key: str) -> None:
        """Take a place; does not suspend while one is free. Pair with `release`.

        Raises UpstreamError (429, `rate_limit_exceeded`) after `queue_s`: another upstream may be tried, but not this one
        again, or each round of retries would be a further wait, from the end of the queue.
        """
        if not self.take():
            await self._wait(key)

    def release(self) -> None:
        """Give a place back: to the next waiter if there is one."""
        while self._queues:
            key, queue = next(iter(self._queues.items()))
            waiter, _ = queue.popitem(last=False)
            if queue:
                self._queues.move_to_end(key)
            else:
                del self._queues[key]
            if not waiter.done():  # it is if its task has just been cancelled, and not run since
                waiter.set_result(None)
                return
        self.active -= 1

    def take_spare(self, give_up: Callable[[], object]) -> bool:
        """Take a place for work that nobody waits for, if one is free. Pair with `release_spare`.

        As soon as a caller has to wait, `give_up` is called, once: the place is to be released then without delay.
        """
        if not self.free:
            return False
        self.active += 1
        self._spare[give_up] = None
        return True

    def release_spare(self, give_up: Callable[[], object]) -> None:
        self._spare.pop(give_up, None)
        self.release()

    async def _wait(self, key: str) -> None:
        loop = asyncio.get_running_loop()
        if self._spare:
            give_up = next(iter(self._spare))
            del self._spare[give_up]
            give_up()
        waiter: asyncio.Future[None] = loop.create_future()
        self._queues.setdefault(key, OrderedDict())[waiter] = None
        deadline = loop.call_later(self._queue_s, self._expire, key, waiter)
        self.waiting += 1
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release()  # the place came in the same turn of the loop as the cancellation
            else:
                self._leave(key, waiter)
            raise
        finally:
            self.waiting -= 1
            deadline.cancel()

    def _expire(self, key: str, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            self._leave(key, waiter)
            waiter.set_exception(
                UpstreamError(
                    "The upstream takes no more calls at the moment",
                    status=429,
                    type="rate_limit_exceeded",
                    retry=False,
                    retry_after_s=1.0,
                    detail=f"{self._name}: no place within queue_s",
                )
            )

    def _leave(self, key: str, waiter: asyncio.Future[None]) -> None:
        queue = self._queues.get(key)
        if queue is not None:
            queue.pop(waiter, None)
            if not queue:
                del self._queues[key]

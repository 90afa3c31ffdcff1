"""Deadlines by the thousand: timers that share one of the event loop's.

Each timer of the loop's own takes half a kilobyte and a microsecond, and every connection and every stream has a deadline or
two. They are of seconds, and most never come.
"""

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary, ref

GRAIN_S: Final = 1 / 16  # exact in binary; a timer fires at most so much later than its deadline


class LazyTimer:
    """Calls back once the earliest deadline that it was armed with has passed, or sooner than the present one.

    A deadline that moves away, as most do with every byte, leaves the timer where it is: the callback looks at the clock and
    arms again.
    """

    __slots__ = ("_after", "_callback", "_timers")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._timers = _timers_of(loop)
        self._callback = callback
        self._after = math.inf  # where the grain of the loop's time begins at whose end it is to fire

    def arm(self, due: float) -> None:
        """Fire once `due` has passed on the loop's clock; infinity asks for nothing."""
        if due > self._after or due == math.inf:
            return
        self.disarm()
        turn = math.ceil(due / GRAIN_S)
        self._after = (turn - 1) * GRAIN_S
        self._timers.put(self, turn)

    def disarm(self) -> None:
        """Forget the deadline."""
        if self._after != math.inf:
            self._timers.drop(self, int(self._after / GRAIN_S) + 1)
            self._after = math.inf

    def close(self) -> None:
        """Fire no more, and let go of the callback, which may refer back to this object. Nothing may be armed after that."""
        self.disarm()
        del self._callback

    def fire(self) -> None:
        """Its turn has come."""
        self._after = math.inf
        self._callback()


class _Timers:
    """Those of one loop. What is due in the same grain of time has its turn together."""

    __slots__ = ("__weakref__", "_firing", "_loop", "_order", "_turns", "_wakes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # it is the key under which this object is kept, and would never be freed
        self._turns: dict[int, dict[LazyTimer, None]] = {}  # dicts, so that timers fire in the order in which they came
        self._order: list[int] = []  # a heap of the turns
        self._firing: dict[LazyTimer, None] = {}  # of the turn that is being taken, who is still to fire
        # The turns that the loop is to wake us for, the nearest last. Not its own timers, which hold the loop: see above.
        self._wakes: list[int] = []

    def put(self, timer: LazyTimer, turn: int) -> None:
        together = self._turns.get(turn)
        if together is not None:
            together[timer] = None
            return
        self._turns[turn] = {timer: None}
        heapq.heappush(self._order, turn)
        self._wake()

    def drop(self, timer: LazyTimer, turn: int) -> None:
        self._turns.get(turn, self._firing).pop(timer, None)

    def _wake(self) -> None:
        """See to it that the first turn is taken in time."""
        first = self._order[0]
        if not self._wakes or first < self._wakes[-1]:
            self._wakes.append(first)
            self._running_loop().call_at(first * GRAIN_S, self._take_turns)

    def _take_turns(self) -> None:
        self._wakes.pop()
        loop = self._running_loop()
        now = loop.time()
        while self._order and self._order[0] * GRAIN_S <= now:
            firing = self._firing = self._turns.pop(heapq.heappop(self._order))
            for timer in tuple(firing):
                if timer not in firing:  # another one's callback has disarmed it
                    continue
                del firing[timer]
                try:
                    timer.fire()
                except Exception as error:  # as the loop does: the others have their turn
                    loop.call_exception_handler({"message": "Exception in a timer's callback", "exception": error})
        if self._order:
            self._wake()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop()
        assert loop is not None
        return loop


_of_loops: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Timers]] = WeakKeyDictionary()


def _timers_of(loop: asyncio.AbstractEventLoop) -> _Timers:
    timers = _of_loops.get(loop)
    if timers is None:
        timers = _of_loops[loop] = _Timers(loop)
    return timers

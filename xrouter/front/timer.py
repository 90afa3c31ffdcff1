"""One timer for many deadlines."""

import asyncio
import math
from collections.abc import Callable


class LazyTimer:
    """Calls back at the earliest deadline that it was armed with, or sooner than the present one.

    A deadline that moves away, as most do with every byte, leaves the timer where it is: the callback looks at the clock and
    arms again.
    """

    __slots__ = ("_at", "_callback", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0.0

    def arm(self, due: float) -> None:
        """Fire no later than `due`, on the loop's clock; infinity asks for nothing."""
        if self._handle is not None:
            if self._at <= due:
                return
            self._handle.cancel()
            self._handle = None
        if due != math.inf:
            self._at = due
            self._handle = self._loop.call_at(due, self._fire)

    def close(self) -> None:
        """Fire no more, and let go of the callback, which may refer back to this object. Nothing may be armed after that."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        del self._callback

    def _fire(self) -> None:
        self._handle = None
        self._callback()

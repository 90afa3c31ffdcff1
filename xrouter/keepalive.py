"""Comments that keep a quiet stream open: proxies and clients give up on a connection that says nothing for a while.

A stream's timer is armed again when it fires and not with every chunk: sending only notes the time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from xrouter.surfaces.sse_out import KEEP_ALIVE
from xrouter.timers import LazyTimer

INTERVAL_S: Final = 10.0


class KeepAlive:
    """Sends a comment through `send` whenever nothing was sent for `INTERVAL_S`, until `stop()`.

    Around anything else that is sent stand `pause()`, whose comment under way is to be waited for, and `resume()`.
    """

    __slots__ = ("_busy", "_comment", "_loop", "_send", "_sent_at", "_timer")

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._busy = False
        self._comment: asyncio.Task[None] | None = None
        self._timer = LazyTimer(self._loop, self._fire)
        self._timer.arm(self._sent_at + INTERVAL_S)

    def pause(self) -> "asyncio.Task[None] | None":
        self._busy = True
        return self._comment

    def resume(self) -> None:
        self._busy = False
        self._sent_at = self._loop.time()

    def stop(self) -> None:
        self._timer.disarm()
        if self._comment is not None:
            self._comment.cancel()

    def close(self) -> None:
        """Stop, and let go of `send`. Nothing may be called after that."""
        self.stop()
        self._timer.close()
        del self._send

    def _fire(self) -> None:
        now = self._loop.time()
        due = now + INTERVAL_S
        if not self._busy and self._comment is None:
            if now >= self._sent_at + INTERVAL_S:
                self._comment = asyncio.create_task(self._say(), name="keep-alive comment")
            else:
                due = self._sent_at + INTERVAL_S
        self._timer.arm(due)

    async def _say(self) -> None:
        try:
            await self._send(KEEP_ALIVE)
        finally:
            self._comment = None
            self._sent_at = self._loop.time()

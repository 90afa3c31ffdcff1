"""A deadline for what a server does, on a loop that may itself be late."""

import asyncio
from types import TracebackType
from typing import Final

_TURNS: Final = 10  # from a readable socket to the task that waits for it; on an idle loop some 50 µs together


class Patience:
    """As `asyncio.timeout`, but an answer that has come in time counts, even if the loop has not come to it yet.

    When a gateway has no CPU left, one turn of its loop takes tens of milliseconds. A plain timer would then fire in the
    very turn that finds the answer on the socket, and take its own lateness for the server's. This one lets the loop look
    at its sockets a few times more before it gives up.
    """

    __slots__ = ("_after_s", "_ended", "_loop", "_scope", "_timer")

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._ended = False

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)
        await self._scope.__aenter__()
        self._timer = self._loop.call_later(self._after_s, self._give_up, _TURNS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises TimeoutError in the place of the cancellation that the deadline caused."""
        self._ended = True
        self._timer.cancel()
        await self._scope.__aexit__(kind, error, traceback)

    def _give_up(self, turns: int) -> None:
        if self._ended:
            return
        if turns:
            self._loop.call_soon(self._give_up, turns - 1)
        else:
            self._scope.reschedule(self._loop.time())

"""Noticing that the client has left, and stopping work for it at once.

Only `receive()` tells (uvicorn's `send` goes quiet after a disconnect), so a small task waits for that message and cancels
the request's own task. It says `http.disconnect` after a finished response too, which is why the block ends the watching.
"""

import asyncio
from types import TracebackType

from xrouter.filters.base import Receive


class ClientWatch:
    """`with ClientWatch(receive) as watch:` the block is cancelled when the client leaves; `left` then says why."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.left = False

    def __enter__(self) -> "ClientWatch":
        self._task = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch(), name="client watch")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Swallows the cancellation that this watch itself has caused, and no other."""
        assert self._watcher is not None
        assert self._task is not None
        self._watcher.cancel()
        if not self.left:
            return False
        others = self._task.uncancel()  # also where the block has turned the cancellation into another error
        return isinstance(error, asyncio.CancelledError) and others == 0

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        assert self._task is not None
        self._task.cancel()

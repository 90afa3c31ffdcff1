"""Noticing that the client has left, and stopping work for it at once.

Our own front calls back. Behind another ASGI server only `receive()` tells (uvicorn's `send` goes quiet after a disconnect):
there a small task waits for that message, which comes after a finished response too, so the block ends the watching.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

from xrouter.context import RequestContext
from xrouter.filters.base import Receive, Scope

Callback = Callable[[], None]

GRACE_S: Final = 5.0
DRAIN_S: Final = 60.0  # the longest that an answer is read on for a client that has left
_ON_DISCONNECT: Final = "xrouter.on_disconnect"  # put into the scope by xrouter.front.exchange


class ClientWatch:
    """`with ClientWatch(scope, receive, drains) as watch:` the block is cancelled when the client leaves; `left` says why.

    Where `drains()` is true at that moment, the block goes on for `DRAIN_S` at most, with nobody to send to.
    """

    __slots__ = ("_call_back", "_cancelled", "_drain", "_drains", "_receive", "_task", "_watcher", "left")

    def __init__(self, scope: Scope, receive: Receive, drains: Callable[[], bool]) -> None:
        self._call_back: Callable[[Callback | None], None] | None = scope.get(_ON_DISCONNECT)
        self._receive = receive
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._drains = drains
        self._drain: asyncio.TimerHandle | None = None
        self._cancelled = False
        self.left = False

    def __enter__(self) -> "ClientWatch":
        self._task = asyncio.current_task()
        if self._call_back is not None:
            self._call_back(self._leave)
        else:
            self._watcher = asyncio.create_task(self._watch(), name="client watch")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Swallows the cancellation that this watch itself has caused, and no other."""
        if self._call_back is not None:
            self._call_back(None)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._drain is not None:
            self._drain.cancel()
        task = self._task
        self._task = self._watcher = self._drain = None  # no cycle is left for the collector
        if not self._cancelled or task is None:
            return False
        others = task.uncancel()  # also where the block has turned the cancellation into another error
        return isinstance(error, asyncio.CancelledError) and others == 0

    def _leave(self) -> None:
        self.left = True
        if self._drains():
            self._drain = asyncio.get_running_loop().call_later(DRAIN_S, self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()


class LastResort:
    """Ends a request whose client has left and that has not ended by itself `GRACE_S` later, wherever it hangs (F38).

    `ClientWatch` stops the upstream call at once; this is for a filter that waits for ever above or below it. Works behind
    our own front, whose hook it shares with the watch inside.
    """

    __slots__ = ("_ctx", "_front", "_inner", "_left", "_task", "_timer", "ended")

    def __init__(self, scope: Scope, ctx: RequestContext) -> None:
        self._ctx = ctx
        self.ended = False  # it came to that
        self._left = False
        self._inner: Callback | None = None
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._front: Callable[[Callback | None], None] | None = scope.get(_ON_DISCONNECT)
        if self._front is not None:
            scope[_ON_DISCONNECT] = self._on_disconnect
            self._front(self._leave)

    def close(self) -> None:
        """The request has ended."""
        if self._front is not None:
            self._front(None)
        if self._timer is not None:
            self._timer.cancel()
        self._task = self._front = self._inner = None

    def _on_disconnect(self, callback: Callback | None) -> None:
        self._inner = callback
        if callback is not None and self._left:
            callback()

    def _leave(self) -> None:
        self._left = True
        if self._inner is not None:
            self._inner()
        patience_s = GRACE_S + (DRAIN_S if self._ctx.client_abort == "drain_and_bill" else 0.0)
        self._timer = asyncio.get_running_loop().call_later(patience_s, self._end)

    def _end(self) -> None:
        """Again and again, for a filter that does not listen the first time."""
        self.ended = True
        if self._task is not None:
            self._task.cancel()
            self._timer = asyncio.get_running_loop().call_later(GRACE_S, self._end)

"""One request's answer as its caller sees it, fed by the connection that carries it.

The connection is let go the moment the answer's last byte is parsed, so it may already serve another request while the
caller still takes pieces from here. An exchange therefore touches its connection only while `_connection` is set.
"""

import asyncio
from typing import TYPE_CHECKING

from xrouter.upstream.base import Headers

if TYPE_CHECKING:
    from xrouter.errors import XRouterError
    from xrouter.upstream.connection import Connection


class Exchange:
    """An `UpstreamResponse`. One reader; the pieces that came since the last one are handed over as one."""

    __slots__ = (
        "_connection",
        "_ended",
        "_error",
        "_loop",
        "_waiter",
        "buffered",
        "deadline",
        "head_only",
        "headers",
        "pieces",
        "status",
    )

    def __init__(self, connection: "Connection", deadline: float, head_only: bool) -> None:
        """`deadline`: when the whole exchange must be over, on the loop's clock."""
        self.status = 0
        self.headers: Headers = ()
        self.deadline = deadline
        self.head_only = head_only
        self.pieces: list[bytes] = []
        self.buffered = 0  # bytes in `pieces`
        self._loop = connection.loop
        self._connection: Connection | None = connection
        self._ended = False
        self._error: XRouterError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the connection reports.

    def began(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers

    def wake(self) -> None:
        """Something happened: let the reader or the writer look."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def ended(self) -> None:
        """The answer is whole, and the connection no longer ours."""
        self._ended = True
        self._connection = None
        self.wake()

    def failed(self, error: "XRouterError") -> None:
        """No more will come. What came before is still handed over."""
        self._error = error
        self.ended()

    # What the engine does.

    @property
    def settled(self) -> bool:
        """Whether writing more of the request is pointless: it is answered already, or the connection is gone."""
        return self.status != 0 or self._ended

    async def wait(self) -> None:
        """Until the connection reports something. A cancelled wait closes the connection."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except BaseException:
            self.drop()
            raise
        finally:
            self._waiter = None

    async def head(self) -> None:
        """Until status and headers are there. Raises what the connection failed with."""
        while not self.status:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()  # as `wait`, without a coroutine more for each request
            try:
                await self._waiter
            except BaseException:
                self.drop()
                raise
            finally:
                self._waiter = None

    def drop(self) -> None:
        """Give the exchange up, and with it a connection that is in the middle of it."""
        self._ended = True
        self.pieces = []
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    # What the caller does.

    def __aiter__(self) -> "Exchange":
        return self

    async def __anext__(self) -> bytes:
        while (data := self.arrived()) is None:
            await self.wait()
        if not data:
            raise StopAsyncIteration
        return data

    def arrived(self) -> bytes | None:
        pieces = self.pieces
        if not pieces:
            if self._error is not None:
                raise self._error
            return b"" if self._ended else None
        self.pieces = []
        self.buffered = 0
        if self._connection is not None:
            self._connection.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> None:
        self._ended = True
        self.pieces = []
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drain()

    async def aclose(self) -> None:
        self.drop()

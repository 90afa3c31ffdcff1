"""The kept connections of one engine, by origin. The last one freed is the first one taken, so surplus ones grow old and go.

Every step of a request is O(1): a dict serves as stack (`popitem`) and as set (`pop`) at once. Only the sweep, twice in a
connection's idle life, looks at more than one.
"""

import asyncio

from xrouter.upstream.base import PoolStats
from xrouter.upstream.connection import Connection
from xrouter.upstream.target import Origin


class Pool:
    def __init__(self, keep_alive_s: float) -> None:
        """`keep_alive_s`: how long a connection may be idle. The upstream may be less patient: see `Http1Engine.send`."""
        self._keep_alive_s = keep_alive_s
        self._idle: dict[Origin, dict[Connection, None]] = {}
        self._open: set[Connection] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None
        self._opened = 0
        self._reused = 0
        self._closed = False

    def take(self, origin: Origin) -> Connection | None:
        """The idle connection that was used last, if there is one."""
        idle = self._idle.get(origin)
        while idle:
            connection, _ = idle.popitem()
            if connection.closed or connection.loop.time() - connection.idle_since > self._keep_alive_s:
                connection.abort()
                continue
            self._reused += 1
            return connection
        return None

    def add(self, connection: Connection) -> None:
        """Know a new connection, to be closed with the others.

        Not left to `connection_made`: uvloop calls it, and never `connection_lost`, if the dialling is cancelled meanwhile.
        """
        self._opened += 1
        if not connection.lost:
            self._open.add(connection)

    # What connections report.

    def free(self, connection: Connection) -> None:
        if self._closed:
            connection.abort()
            return
        connection.idle_since = connection.loop.time()
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = {}
        idle[connection] = None
        if self._sweep_timer is None:
            self._sweep_timer = connection.loop.call_later(self._keep_alive_s / 2, self._sweep, connection.loop)

    def dropped(self, connection: Connection) -> None:
        idle = self._idle.get(connection.origin)
        if idle is not None:
            idle.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._emptied is not None and not self._open:
            self._emptied.set()

    # The rest.

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what has been idle for too long. The longest idle ones stand first."""
        self._sweep_timer = None
        oldest = loop.time() - self._keep_alive_s
        for idle in self._idle.values():
            expired = []
            for connection in idle:
                if connection.idle_since > oldest:
                    break
                expired.append(connection)
            for connection in expired:
                connection.abort()
        if any(self._idle.values()):
            self._sweep_timer = loop.call_later(self._keep_alive_s / 2, self._sweep, loop)

    def stats(self) -> PoolStats:
        by_origin: dict[str, int] = {}
        for connection in self._open:
            name = str(connection.origin)
            by_origin[name] = by_origin.get(name, 0) + 1
        idle = sum(map(len, self._idle.values()))
        return PoolStats(idle, len(self._open) - idle, self._opened, self._reused, by_origin)

    async def aclose(self) -> None:
        """Abort every connection, idle or not, and wait for their sockets to be closed. Takes a turn of the loop or two."""
        self._closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for connection in tuple(self._open):
            connection.give_up()
        if self._open:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

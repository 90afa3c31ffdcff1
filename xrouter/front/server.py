"""Listening, serving and stopping: uvicorn's server around this package's protocol.

uvicorn contributes the lifespan, the graceful stop and the `Date` header. Signals are left alone: whoever starts the
server owns them and calls `stop()`.
"""

import asyncio
import contextlib
import math
import socket
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import uvicorn
import uvloop

from xrouter.config.settings import Server

Lifespan = Literal["auto", "on", "off"]

_BACKLOG = 2048
_TICK_S = 1.0  # how often uvicorn renews the `Date` header


class FrontServer(uvicorn.Server):
    """uvicorn's server with sockets of ours, no signal handlers, and a stop that is noticed at once."""

    def __init__(self, config: uvicorn.Config, sockets: Sequence[socket.socket]) -> None:
        super().__init__(config)
        self.sockets = list(sockets)
        self.running = threading.Event()  # set once the lifespan has started and connections are accepted
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    @property
    def url(self) -> str:
        """`http://host:port` of the first socket."""
        host, port = self.sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets or self.sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.running.set()

    async def main_loop(self) -> None:
        """Wait to be stopped. uvicorn's own loop wakes up ten times a second and notices a stop that late."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK_S)

    def stop(self) -> None:
        """Take no more connections and end once the open requests are answered. May be called from any thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(server: Server, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket at the configured address; port 0 takes one from the kernel. Raises OSError."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    return socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG, reuse_port=reuse_port)


def build_server(
    app: Any, server: Server, *, sockets: Sequence[socket.socket] | None = None, lifespan: Lifespan = "auto"
) -> FrontServer:
    """A server of `app` that is not running yet; it listens on `sockets`, or at the configured address."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(server.drain_s),
    )
    return FrontServer(config, sockets if sockets is not None else [listen(server)])


def serve(app: Any, server: Server, *, lifespan: Lifespan = "on") -> None:
    """Serve until stopped, on a uvloop event loop of its own."""
    uvloop.run(build_server(app, server, lifespan=lifespan).serve())


class ThreadedServer:
    """Serves an app from a thread with its own event loop, on a port of the kernel's choice: for tests and benches."""

    def __init__(self, app: Any, server: Server | None = None, *, lifespan: Lifespan = "auto") -> None:
        settings = server or Server(port=0, drain_s=2)
        self.server = build_server(app, settings, lifespan=lifespan)
        self.url = self.server.url
        self.host, self.port = self.server.sockets[0].getsockname()[:2]
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    def _run(self) -> None:
        try:
            uvloop.run(self.server.serve())
        except BaseException as failure:  # handed to the thread that waits in __enter__ or __exit__
            self._failure = failure
        finally:
            self.server.running.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self.server.running.wait()
        if not self.server.started:
            self._thread.join()
            raise RuntimeError("the server did not start") from self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()
        self._thread.join()
        if self._failure is not None and error is None:
            raise RuntimeError("the server broke") from self._failure


@contextlib.contextmanager
def running(app: Any, server: Server | None = None, *, lifespan: Lifespan = "auto") -> Iterator[str]:
    """The base URL of `app`, served from a thread for as long as the block lasts."""
    with ThreadedServer(app, server, lifespan=lifespan) as threaded:
        yield threaded.url

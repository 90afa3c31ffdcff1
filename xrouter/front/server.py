"""Listening, serving and stopping: uvicorn's server around this package's protocol.

uvicorn contributes the lifespan, the graceful stop and the `Date` header. Signals are left alone: whoever starts the
server owns them and calls `stop()`.
"""

import asyncio
import contextlib
import logging
import math
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import uvicorn
import uvloop

from xrouter.config.settings import Server
from xrouter.front.acceptor import Acceptor
from xrouter.front.connection import BUFFER_BYTES, Connection, Front
from xrouter.front.refusal import Refusal
from xrouter.front.start_queue import Reason
from xrouter.front.takeover import QUEUE_S, send_to_the_newer
from xrouter.world import RealWorld, World

Lifespan = Literal["auto", "on", "off"]

_BACKLOG = 4096
_SPARE_DESCRIPTORS = 64  # files, database, listeners, the loop's own
_MIN_CONNECTIONS = 16
_SETTLE_S = 5  # for requests that were cancelled at the end of the drain, and for answers that are not flushed yet
_LOOK_S = 0.02
_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START
_TICK_S = 1.0  # how often uvicorn renews the `Date` header


log = logging.getLogger("xrouter.front")


class FrontServer(uvicorn.Server):
    """uvicorn's server with sockets of ours, no signal handlers, and a stop that is noticed at once."""

    def __init__(self, config: uvicorn.Config, front: Front, sockets: Sequence[socket.socket]) -> None:
        super().__init__(config)
        self._front = front
        self._drain_s = front.limits.drain_s
        self._delay_s = front.limits.drain_delay_s
        self.sockets = list(sockets)
        self.running = threading.Event()  # set once the lifespan has started and connections are accepted
        self.on_started: Callable[[], None] = lambda: None  # connections are accepted; never if the lifespan failed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stop_wanted = False
        self._at_once = asyncio.Event()  # nobody has to notice first

    @property
    def url(self) -> str:
        """`http://host:port` of the first socket."""
        return address(self.sockets[0])

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await super().serve(sockets or self.sockets)
        finally:
            for listener in self.sockets:
                listener.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.running.set()
        if self.started:
            self.on_started()

    async def main_loop(self) -> None:
        """Wait to be stopped. uvicorn's own loop wakes up ten times a second and notices a stop that late."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK_S)
        delay_ends = asyncio.get_running_loop().time() + self._delay_s
        while not self._at_once.is_set() and (left_s := delay_ends - asyncio.get_running_loop().time()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._at_once.wait(), min(left_s, _TICK_S))
            await self.on_tick(0)

    async def on_tick(self, counter: int) -> bool:
        should_exit = await super().on_tick(counter)
        self._front.default_lines = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        return should_exit or self._stop_wanted

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the open requests end, then the app's lifespan.

        Kept-alive connections have a moment to bring what is on its way and to be told to close (RFC 9112 section 9.6): a
        client that reuses one which is closed under its request sees that request fail.

        uvicorn ends the lifespan right after it has cancelled what outlives the drain. Here that is cancelled first, and
        uvicorn waits for it, so that cancelled requests can settle.
        """
        if any(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for listener in self.sockets):
            for listener in self.sockets:
                send_to_the_newer(listener)
            await asyncio.sleep(QUEUE_S)
        for server in self.servers:
            server.close()
        connections, tasks = self.server_state.connections, self.server_state.tasks
        for connection in list(connections):
            cast(Connection, connection).retire()
        drain_ends = asyncio.get_running_loop().time() + self._drain_s
        while (connections or tasks) and asyncio.get_running_loop().time() < drain_ends:  # noqa: ASYNC110  sets tell nobody
            await asyncio.sleep(_LOOK_S)
        for task in tasks:
            task.cancel("the server stops")
        await super().shutdown(sockets)

    def stop(self, *, at_once: bool = True) -> None:
        """Take no more connections and end once the open requests are answered. May be called from any thread.

        Unless `at_once`, `drain_delay_s` passes first, in which everything is answered as ever (fault matrix F21).
        """
        self._stop_wanted = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
            if at_once:
                self._loop.call_soon_threadsafe(self._at_once.set)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(server: Server, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket at the configured address; port 0 takes one from the kernel. Raises OSError.

    With `reuse_port` it is bound, and begins to listen when the server starts: a process that shares the address with
    another is given no connection before it can serve it.

    Accepted sockets inherit its options. A client that acknowledges nothing for `write_timeout_s` is given up by the
    kernel (TCP_USER_TIMEOUT, RFC 5482), also where only the odd heartbeat is written to it. And the kernel keeps little
    that is unsent (TCP_NOTSENT_LOWAT), so that a slow reader is felt at once, whatever the socket's buffer has grown to.
    """
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    if reuse_port:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((server.host, server.port))
    else:
        listener = socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG)
    _bound_writes(listener, server.write_timeout_s)
    return listener


def _bound_writes(listener: socket.socket, write_timeout_s: float) -> None:
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(write_timeout_s * 1000))
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, BUFFER_BYTES)


def inherited_listener() -> socket.socket | None:
    """The socket that systemd, or another that speaks its protocol, listens at for this process (sd_listen_fds(3)).

    It stays open while one version of the gateway takes over from another, so nobody is refused. The first one is taken.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or int(os.environ.get("LISTEN_FDS", "0")) < 1:
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # no child of ours is meant
    listener = socket.socket(fileno=_FIRST_INHERITED)
    listener.setblocking(False)
    _bound_writes(listener, Server().write_timeout_s)
    return listener


def address(listener: socket.socket) -> str:
    """`http://host:port` of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def max_connections() -> int:
    """As many clients as descriptors allow when each may have a connection to an upstream too."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(_MIN_CONNECTIONS, (limit - _SPARE_DESCRIPTORS) // 2)


def raise_descriptor_limit() -> None:
    """Take all descriptors that the system grants: the soft limit is often 1024 for the sake of select(2) only."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def log_refusal(refusal: Refusal) -> None:
    error = refusal.error
    log.info("refused: %d %s request_id=%s client=%s", error.status, error.message, refusal.request_id, refusal.client)


def build_server(
    app: Any,
    server: Server,
    *,
    sockets: Sequence[socket.socket] | None = None,
    lifespan: Lifespan = "auto",
    world: World | None = None,
    on_refusal: Callable[[Refusal], None] = log_refusal,
    on_shed: Callable[[Reason], None] = lambda reason: None,
) -> FrontServer:
    """A server of `app` that is not running yet; it listens on `sockets`, or at the configured address.

    `on_refusal` is told of every request that the front has answered in the app's place, `on_shed` of those that it sheds.
    """
    listeners = sockets if sockets is not None else [listen(server)]
    acceptor = Acceptor(listeners, server.workers)
    front = Front(server, world or RealWorld(), max_connections(), on_refusal, on_shed=on_shed, acceptor=acceptor)
    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], front),  # uvicorn calls it; it need not be a class
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        backlog=_BACKLOG,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_SETTLE_S,
    )
    return FrontServer(config, front, listeners)


def serve(app: Any, server: Server, *, lifespan: Lifespan = "on") -> None:
    """Serve until stopped, on a uvloop event loop of its own."""
    raise_descriptor_limit()
    uvloop.run(build_server(app, server, lifespan=lifespan).serve())

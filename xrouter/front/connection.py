"""One client connection: bytes to the parser, one exchange at a time, limits and deadlines.

Two rules keep answers from mixing. A request that arrives while another is being answered (pipelining, or bytes after a
request's end) is never read: the answer under way goes out and the connection closes, which RFC 9112 section 9.3.2 has
clients expect. And the front answers in the app's place only while nothing of an answer is written; after that it cuts.

A connection that closes before its request has come whole lingers: the answer is followed by the end of our side, what
still arrives is thrown away for a moment, and only then the socket goes. Closing at once would make the kernel send a
reset, and the client may lose the answer (RFC 9112 section 9.6).

All deadlines share one timer, which an ordinary request does not touch. A client that closes its sending side counts as
gone, as in uvicorn.
"""

import asyncio
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from xrouter.config.settings import Server
from xrouter.errors import RequestTimeout, XRouterError
from xrouter.front.acceptor import Acceptor
from xrouter.front.exchange import DISCARD_BYTES, Exchange, Scope
from xrouter.front.glance import Glance
from xrouter.front.head import Head
from xrouter.front.overload import Overload
from xrouter.front.reader import Reader, Surplus
from xrouter.front.refusal import Refusal, TooManyConnections
from xrouter.front.start_queue import Reason, StartQueue
from xrouter.ids import time_ordered
from xrouter.timers import LazyTimer
from xrouter.world import World

LINGER_S = 1.0
LAST_REQUEST_S = 1.0  # when the server stops, for a request that is on its way on a kept-alive connection
BUFFER_BYTES = 64 * 1024  # of a request's body before reading pauses, of an answer before writing pauses
_ASGI = {"version": "3.0", "spec_version": "2.3"}  # nobody writes into it
_WRITE_LOOKS = 4  # how often within write_timeout_s a waiting client's progress is looked at


class Phase(IntEnum):
    """What the connection waits for, and so which deadline holds."""

    HEAD = 0  # a request, or the rest of its head
    BODY = 1  # the rest of a body; the app is running, and may even have answered
    ANSWER = 2  # the app
    LAST = 3  # the app, with a client that has already sent more than its request
    CLOSED = 4  # the client's leave: nothing is read or answered any more


HEAD, BODY, ANSWER, LAST, CLOSED = Phase  # Python 3.11 takes 0.15 µs to find a member in its class


@dataclass(slots=True)
class Front:
    """What the connections of one server share. Called by uvicorn with its own keywords to make each of them.

    `default_lines` are header lines that every answer gets: the date, renewed every second.
    """

    limits: Server
    world: World
    max_connections: int
    on_refusal: Callable[[Refusal], None]
    default_lines: bytes = b""
    on_shed: Callable[[Reason], None] = lambda reason: None
    acceptor: Acceptor = field(default_factory=Acceptor)
    glance: Glance = field(default_factory=Glance)
    starts: StartQueue = field(init=False)
    overload: Overload = field(init=False)

    def __post_init__(self) -> None:
        queue_s = self.limits.queue_s
        self.starts = StartQueue(queue_s, self.world.monotonic)
        self.overload = Overload(self.world, max(1, math.ceil(queue_s)), self.on_shed)

    def __call__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "Connection":
        loop = _loop or asyncio.get_running_loop()
        make = partial(Connection, self, config.loaded_app, server_state, app_state, loop)
        self.acceptor.accept_more(make, loop, self.starts.connections_a_turn)
        return make()


class Connection(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_address",
        "_app",
        "_app_state",
        "_client",
        "_discarded",
        "_exchange",
        "_first",
        "_front",
        "_last",
        "_lingering",
        "_loop",
        "_phase",
        "_read_paused",
        "_reader",
        "_scheme",
        "_since",
        "_state",
        "_timer",
        "_transport",
        "_unsent",
        "_unsent_since",
        "_writable",
        "write",
        "write_paused",
    )

    write: Callable[[bytes], None]
    _transport: asyncio.Transport

    def __init__(
        self, front: Front, app: Any, state: ServerState, app_state: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._front = front
        self._app = app
        self._state = state
        self._app_state = app_state
        self._loop = loop
        self._phase = HEAD
        self._since = loop.time()  # when the present wait of HEAD or BODY began
        self._reader = Reader(self, front.limits)
        self._first = True  # no request has come yet
        self._last = False  # the server stops: the next request is this connection's last
        self._exchange: Exchange | None = None
        self._timer = LazyTimer(loop, self._on_timer)
        self._discarded = 0
        self._read_paused = False
        self.write_paused = False
        self._writable: asyncio.Event | None = None  # made when a `send` has to wait
        self._unsent = 0  # bytes, when last looked at
        self._unsent_since = 0.0  # when they were last seen to become fewer
        self._lingering = False

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self._address = _address(transport.get_extra_info("sockname"))
        self._client = _address(transport.get_extra_info("peername"))
        self._scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own classes; it calls shutdown()
        if len(self._state.connections) > self._front.max_connections:
            self.refuse(TooManyConnections(retry_after_s=1))
        else:
            self._arm()

    def connection_lost(self, error: Exception | None) -> None:
        self._state.connections.discard(self)
        self._phase = CLOSED
        self._timer.close()
        self._drop_exchange()
        self._exchange = None
        self.resume_writing()
        self._reader.close()

    def eof_received(self) -> None:
        self._drop_exchange()
        self._phase = CLOSED
        self._lingering = False
        self._arm()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._unsent_since = self._loop.time()
        self._arm()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._phase >= LAST:
            self._discard(len(data))
            return
        if self._phase is HEAD and self._front.starts.too_long and self._turn_away(data):
            return
        reader = self._reader
        if self._phase is BODY or (self._phase is HEAD and not self._first and not reader.heard):
            self._since = self._loop.time()
        before = self._exchange
        try:
            reader.feed(data)
        except (Surplus, XRouterError) as error:
            if self._phase is CLOSED:
                return
            if isinstance(error, XRouterError) and self._phase is not ANSWER:
                self.refuse(error)  # where all of it came at once, the app never hears of it
                return
            self._surplus()
        exchange = self._exchange
        if exchange is not None and exchange is not before:
            self._front.starts.arrive(self, exchange, self._loop)
        if self._phase < ANSWER:
            self._arm()

    # The start queue's calls.

    def start(self, exchange: Exchange) -> None:
        task = self._loop.create_task(exchange.run(self._app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def shed(self, exchange: Exchange, reason: Reason) -> None:
        exchange.answer(*self._front.overload.answer(reason, self._front.default_lines))

    def stop_hearing(self) -> None:
        if self._phase is not CLOSED:
            self._pause_reading()

    def hear_again(self) -> None:
        if self._phase is not CLOSED:
            self._resume_reading()

    def _turn_away(self, data: bytes) -> bool:
        """Shed a request that has come whole in one read, before anything is made of it. False: it is read as ever."""
        front = self._front
        if self._reader.heard or self._last or self.write_paused or not front.glance.is_whole(data):
            return False
        sender: Hashable = front.glance.credential
        if sender is None:
            sender = self._client and self._client[0]
        if not front.starts.too_long_for(sender):
            return False
        self._first = False
        self._since = self._loop.time()
        self._state.total_requests += 1
        self.write(front.overload.whole_answer("wait", front.default_lines))
        front.starts.shed_one(self)
        return True

    # The reader's calls.

    def may_begin(self) -> bool:
        return self._phase is HEAD

    def begin(self, head: Head) -> None:
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "server": self._address,
            "client": self._client,
            "scheme": self._scheme,
            "method": head.method,
            "root_path": "",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.headers,
            "state": self._app_state.copy(),
        }
        self._exchange = Exchange(self, scope, head)
        if self._last:
            self._exchange.keep_alive = False
        self._phase = BODY
        self._first = False
        self._since = self._loop.time()

    def body(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        if not exchange.complete:
            exchange.feed(data)
            if exchange.buffered > BUFFER_BYTES:
                self._pause_reading()

    def end(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        exchange.end()
        if exchange.complete:
            self._await_request()
        else:
            self._phase = ANSWER
            self._resume_reading()  # to hear that the client leaves

    # The exchange's calls.

    @property
    def default_lines(self) -> bytes:
        return self._front.default_lines

    async def drain(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()
        self._writable.clear()
        await self._writable.wait()

    def wait_for_body(self) -> None:
        if self._phase is BODY:
            self._since = self._loop.time()
            self._resume_reading()
            self._arm()

    def answered(self) -> None:
        self._state.total_requests += 1
        exchange = self._exchange
        assert exchange is not None
        if self._phase is CLOSED:
            return
        if not exchange.keep_alive or self._phase is LAST:
            self._close(linger=self._phase is not ANSWER)
        elif self._phase is ANSWER:
            self._await_request()
        else:
            self._since = self._loop.time()
            self._resume_reading()
            self._arm()

    def refuse(self, error: XRouterError) -> None:
        """Answer with `error` and close; where an answer is under way, cut it off instead."""
        exchange = self._exchange
        head_only = False
        if exchange is not None:
            exchange.drop()
            head_only = exchange.bodiless
            if exchange.started:
                self._close(linger=False)
                return
        error.__traceback__ = error.__context__ = None  # they hold this connection; who is told may keep the error
        refusal = Refusal(time_ordered(self._front.world), self._client[0] if self._client else "", error)
        self.write(refusal.encoded(self._front.default_lines, head_only))
        self._close(linger=self._phase is not ANSWER)
        self._front.on_refusal(refusal)

    # The server's calls.

    def retire(self) -> None:
        """The server will stop: the next answer whose head is not written yet says `Connection: close`.

        A connection that waits between two requests, or will when a stream has ended that began before, has a moment: a
        request may be on its way, and would be lost.
        """
        self._last = True
        if self._lingering:
            self._close(linger=False)
        elif self._exchange is None:
            self._since = self._loop.time()
            self._arm()
        elif not self._exchange.started:
            self._exchange.keep_alive = False

    def shutdown(self) -> None:
        """The server has stopped: finish what is under way, take nothing new."""
        self._last = True
        if self._lingering or (self._phase is HEAD and not self._reader.heard):
            self._close(linger=False)
        elif self._exchange is not None:
            self._exchange.keep_alive = False

    # Changes of phase.

    def _await_request(self) -> None:
        self._exchange = None
        self._phase = HEAD
        self._since = now = self._loop.time()
        self._timer.arm(now + (LAST_REQUEST_S if self._last else self._front.limits.idle_timeout_s))

    def _surplus(self) -> None:
        assert self._exchange is not None
        self._exchange.keep_alive = False
        self._phase = LAST

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > DISCARD_BYTES:
            if self._phase is LAST:
                self._drop_exchange()
                self._transport.abort()
            else:
                self._pause_reading()

    def _close(self, linger: bool) -> None:
        """Write out what is written, and close. `linger`: the client may still be sending."""
        self._phase = CLOSED
        self._unsent = 0
        self._lingering = False
        if self._transport.is_closing():
            return
        if linger and self._transport.can_write_eof():
            self._lingering = True
            self._since = self._loop.time()
            self._transport.write_eof()
            self._resume_reading()
        else:
            self._transport.close()
        self._arm()

    def _drop_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.drop()

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    # Deadlines, all on the loop's clock.

    def _due(self) -> float:
        """When the present phase has lasted too long; infinity where it may last for ever."""
        limits = self._front.limits
        phase = self._phase
        if phase is HEAD:
            if self._last and not self._reader.heard:
                return self._since + LAST_REQUEST_S
            waits = self._first or self._reader.heard
            return self._since + (limits.header_timeout_s if waits else limits.idle_timeout_s)
        if phase is BODY:
            exchange = self._exchange
            owed = exchange is not None and not exchange.expects_continue and not self._read_paused
            return self._since + limits.body_timeout_s if owed else math.inf
        return self._since + LINGER_S if self._lingering else math.inf

    def _look_due(self) -> float:
        """When to look at whether the client reads."""
        if self.write_paused or (self._phase is CLOSED and not self._lingering):
            return self._loop.time() + self._front.limits.write_timeout_s / _WRITE_LOOKS
        return math.inf

    def _arm(self) -> None:
        self._timer.arm(min(self._due(), self._look_due()))

    def _on_timer(self) -> None:
        if self._is_stuck():
            self._drop_exchange()
            self._transport.abort()
        elif self._loop.time() < self._due():
            self._arm()
        elif self._phase is HEAD and not self._reader.begun:
            self._close(linger=False)  # silent, or idle between two requests: nobody waits for an answer
        elif self._phase is CLOSED:
            self._close(linger=False)
        else:
            self.refuse(RequestTimeout())

    def _is_stuck(self) -> bool:
        """Whether the client has taken nothing for too long of what is written."""
        now = self._loop.time()
        unsent, before = self._transport.get_write_buffer_size(), self._unsent
        self._unsent = unsent
        if not before or unsent < before:
            self._unsent_since = now
        return now - self._unsent_since >= self._front.limits.write_timeout_s


def _address(name: object) -> tuple[str, int] | None:
    """Host and port of a socket's name, which has two parts for IPv4 and four for IPv6; None for a Unix socket."""
    match name:
        case (str(host), int(port), *_):
            return host, port
        case _:
            return None

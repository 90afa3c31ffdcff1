"""One HTTP/1.1 connection: bytes in from the transport, parsed, handed to the exchange under way.

llhttp (inside httptools) is strict about syntax as long as no leniency is switched on: it refuses bare line feeds, folded
headers, control characters, Content-Length beside Transfer-Encoding or twice, and chunk sizes that are not plain
hexadecimal. What it lets through and must not be believed is refused here: other versions of HTTP, status codes out of
range, transfer codings other than `chunked`, heads without end, and bytes that no request has asked for.

A connection is either idle in the pool, or has one exchange, or drains the rest of one, or is closed. It arms one timer for
all its deadlines and lets it fire early instead of moving it, so an ordinary request touches no timer at all.
"""

import asyncio
from enum import IntEnum
from typing import Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser

from xrouter.config.settings import Timeouts
from xrouter.errors import ShuttingDown, UpstreamProtocolError, UpstreamTimeout, XRouterError
from xrouter.timers import LazyTimer
from xrouter.upstream.base import Limits
from xrouter.upstream.exchange import Exchange
from xrouter.upstream.target import Origin

DRAIN_BYTES = 64 * 1024
DRAIN_S = 1.0
_WRITE_SLICE = 64 * 1024
_INTERIM_ANSWERS = 8  # 1xx heads before the final one


class Phase(IntEnum):
    """What the connection is doing, and so which deadline holds."""

    IDLE = 0
    WRITE = 1  # a large request body is leaving
    HEAD = 2  # waiting for the final answer's head
    BODY = 3
    DRAIN = 4  # the caller has what it needs; the answer's end may still come
    CLOSED = 5


IDLE, WRITE, HEAD, BODY, DRAIN, CLOSED = Phase  # Python 3.11 takes 0.15 µs to find a member in its class


class Keeper(Protocol):
    """Who keeps connections: the pool."""

    def free(self, connection: "Connection") -> None:
        """The connection can carry another request."""

    def dropped(self, connection: "Connection") -> None:
        """The connection is of no more use; its socket closes within the next turns of the loop. Idempotent."""

    def lost(self, connection: "Connection") -> None:
        """The socket is closed."""


class _Refused(Exception):
    """Raised inside the parser's callbacks to stop it; the message says what was wrong."""


class Connection(asyncio.Protocol):
    """See the module. `heard`: a byte has come for the exchange under way; `hung_up`: the upstream ended the connection."""

    __slots__ = (
        "_arrived", "_exchange", "_header_size", "_headers", "_in_interim", "_interim", "_keeper", "_limits", "_parser",
        "_phase", "_read_paused", "_reusable", "_since", "_size", "_timeouts", "_timer", "_transport", "_whole",
        "_write_paused", "heard", "hung_up", "idle_since", "loop", "on_body", "origin", "sent_at",
    )  # fmt: skip

    def __init__(
        self, keeper: Keeper, loop: asyncio.AbstractEventLoop, origin: Origin, timeouts: Timeouts, limits: Limits
    ) -> None:
        self.loop = loop
        self.origin = origin
        self.idle_since = 0.0
        self.heard = False
        self.hung_up = False
        self.sent_at = 0.0  # when the request was written, on the loop's clock
        self._keeper = keeper
        self._timeouts = timeouts
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        self._arrived: list[bytes] = []  # of the body, from the bytes that are being parsed
        self.on_body = (
            self._arrived.append
        )  # for the parser: a burst has hundreds of chunks, and this runs no Python code
        self._parser = HttpResponseParser(self)
        self._phase = IDLE
        self._exchange: Exchange | None = None
        self._read_paused = False
        self._write_paused = False
        self._timer = LazyTimer(loop, self._on_timer)
        self._since = 0.0  # when the present wait began: the last byte, the last progress of a write
        self._headers: list[tuple[bytes, bytes]] = []
        self._size = 0  # bytes since the head's start, or of framing since the last body byte, or drained
        self._header_size = 0
        self._interim = 0
        self._in_interim = False
        self._whole = False
        self._reusable = False

    # What the pool and the engine do.

    @property
    def lost(self) -> bool:
        """Whether the socket is closed and `Keeper.lost` has been told."""
        return self._transport is None

    @property
    def closed(self) -> bool:
        return self._phase is CLOSED or self._transport is None or self._transport.is_closing()

    @property
    def writing(self) -> bool:
        """Whether `start` has left the body to `write_body`."""
        return self._phase is WRITE

    def start(self, head: bytes, body: bytes, deadline: float, head_only: bool) -> Exchange:
        """Write a request. A body above one slice is left for `write_body`."""
        assert self._transport is not None
        assert self._phase is IDLE
        now = self.loop.time()
        self._exchange = exchange = Exchange(self, deadline, head_only)
        self._headers = []
        self._size = self._header_size = self._interim = 0
        self._whole = self.heard = False
        self._reusable = True
        self._since = self.sent_at = now
        if len(body) <= _WRITE_SLICE:
            self._phase = HEAD
            self._transport.write(head + body if body else head)
        else:
            self._phase = WRITE
            self._transport.write(head)
        self._timer.arm(min(now + self._timeouts.first_byte_s, deadline))
        return exchange

    async def write_body(self, exchange: Exchange, body: bytes) -> None:
        """Write a large body as fast as the upstream takes it; stop as soon as it has answered or gone."""
        view = memoryview(body)
        for offset in range(0, len(view), _WRITE_SLICE):
            while self._write_paused and not exchange.settled:
                await exchange.wait()
            if exchange.settled:
                return
            assert self._transport is not None
            self._transport.write(view[offset : offset + _WRITE_SLICE])
        if self._phase is WRITE:
            self._phase = HEAD
            self.sent_at = self.loop.time()
            self._timer.arm(self._due()[0])

    def resume_reading(self) -> None:
        if self._read_paused:
            assert self._transport is not None
            self._read_paused = False
            self._since = self.loop.time()
            self._timer.arm(self._due()[0])
            self._transport.resume_reading()

    def drain(self) -> None:
        """The exchange is given up while little or nothing of it is left: see whether its end comes by itself."""
        if self._phase is not BODY:
            self.abort()
            return
        self._exchange = None
        self._phase = DRAIN
        self._since = self.loop.time()
        self._size = 0
        self._timer.arm(self._due()[0])
        if self._read_paused:
            assert self._transport is not None
            self._read_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once, without flushing what is still to be written. Idempotent."""
        self._phase = CLOSED
        self._exchange = None
        self._timer.disarm()
        if self._transport is not None:
            self._transport.abort()
        self._keeper.dropped(self)

    def give_up(self) -> None:
        """The engine is closing: an exchange under way fails."""
        self._fail(ShuttingDown(detail=f"{self.origin}: the engine was closed during a call"))

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is CLOSED:
            return
        if phase is IDLE:  # whatever it is, the next request must not take it for its answer
            self.abort()
            return
        if not self.heard:
            self.heard = True
            if data[0] != 0x48:  # llhttp would go on with RTSP and ICE, and skip empty lines
                self._refuse("the answer does not begin with HTTP")
                return
        exchange = self._exchange
        self._since = self.loop.time()
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as error:
            self._hand_over(exchange)
            self._stopped(str(error.__context__))
            return
        except HttpParserError as error:
            self._hand_over(exchange)
            self._stopped(str(error))
            return
        news = self._hand_over(exchange)
        if self._whole:
            self._conclude(self._reusable)
        elif exchange is None:
            if self._size > DRAIN_BYTES:
                self.abort()
        elif self._phase is BODY:
            self._progress(exchange, news)
            if phase is not BODY:
                self._timer.arm(self._due()[0])  # from here on this deadline only moves away
        elif self._size > self._limits.head_bytes:
            self._refuse("the answer's head is too long")

    def eof_received(self) -> None:
        self._gone(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._gone(error)
        self._transport = None
        self._keeper.lost(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._since = self.loop.time()
        if self._exchange is not None:
            self._exchange.wake()

    # The parser's callbacks. They raise to stop it; `data_received` handles what they raise.

    def on_message_begin(self) -> None:
        if self._whole:
            raise _Refused("bytes after the end of the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_size += len(name) + len(value) + 4
        self._headers.append((name.lower(), value.rstrip(b" \t")))
        if len(self._headers) > self._limits.headers or self._header_size > self._limits.head_bytes:
            raise _Refused("the answer has too many or too long headers")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            raise _Refused("the answer is of another version of HTTP")
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > _INTERIM_ANSWERS:
                raise _Refused(f"unexpected status {status}")
            self._in_interim = True
            return
        if status > 599:
            raise _Refused(f"status {status}")
        self._check_codings()
        exchange = self._exchange
        assert exchange is not None
        exchange.began(status, tuple(self._headers))
        if self._phase is WRITE:  # answered before it had the whole request: what follows would be misread
            self._reusable = False
        self._phase = BODY
        self._size = 0
        self._headers = []  # trailers count anew
        if exchange.head_only:
            self._whole = True
            self._reusable = False  # the parser would take a next answer for this one's body

    def on_message_complete(self) -> None:
        if self._in_interim:
            self._in_interim = False
            self._headers = []
            return
        self._whole = True
        if not self._parser.should_keep_alive():
            self._reusable = False

    # Inside.

    def _check_codings(self) -> None:
        """Refuse an answer whose framing or content this engine does not read (RFC 9112 section 6.1)."""
        for name, value in self._headers:
            if name == b"transfer-encoding":
                if value.lower() != b"chunked" or self._parser.get_http_version() == "1.0":
                    raise _Refused("a transfer coding other than chunked")
            elif name == b"content-encoding" and value.lower() not in (b"identity", b""):
                raise _Refused("a compressed answer, which was not asked for")

    def _hand_over(self, exchange: Exchange | None) -> bool:
        """Give what has come of the body to who reads it. Whether there is any. A body after HEAD is nobody's."""
        arrived = self._arrived
        if not arrived:
            return False
        if exchange is not None and not exchange.head_only:
            piece = arrived[0] if len(arrived) == 1 else b"".join(arrived)
            exchange.pieces.append(piece)
            exchange.buffered += len(piece)
        arrived.clear()
        return True

    def _progress(self, exchange: Exchange, news: bool) -> None:
        """Part of the answer has come, with or without some of its body."""
        if news:
            self._size = 0
        elif self._size > self._limits.head_bytes:
            self._refuse("framing without end")
            return
        if exchange.buffered > self._limits.buffered_bytes and not self._read_paused:
            assert self._transport is not None
            self._read_paused = True
            self._transport.pause_reading()
        exchange.wake()

    def _stopped(self, reason: str) -> None:
        """The parser goes no further. An answer that is already whole stands; the connection is not used again."""
        if self._whole and self._phase is BODY:
            self._conclude(False)
        else:
            self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        self._fail(UpstreamProtocolError(detail=f"{self.origin}: {reason}"))

    def _conclude(self, reusable: bool) -> None:
        """The answer is whole."""
        exchange, self._exchange = self._exchange, None
        if reusable and not self.closed:
            self._phase = IDLE
            self._keeper.free(self)
        else:
            self.abort()
        if exchange is not None:
            exchange.ended()

    def _fail(self, error: XRouterError) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.failed(error)

    def _gone(self, error: Exception | None) -> None:
        """The upstream has closed or reset the connection: a loss, or the end of a body without a length."""
        if self._phase is CLOSED:
            return
        self.hung_up = True
        exchange = self._exchange
        if exchange is None:
            self.abort()
        elif error is None and self._phase is BODY and _ends_with_connection(exchange):
            self._conclude(False)
        else:
            where = "in the middle of its answer" if self._phase is BODY else "without an answer"
            detail = f"{self.origin}: {error!r}" if error is not None else str(self.origin)
            self._fail(UpstreamProtocolError(f"The upstream closed the connection {where}", detail=detail))

    # Deadlines.

    def _due(self) -> tuple[float, str]:
        """The present deadline on the loop's clock, and the name of the limit behind it."""
        timeouts = self._timeouts
        exchange = self._exchange
        if exchange is None:
            return self._since + DRAIN_S, "drain"
        if self._phase is HEAD:
            due, limit = self.sent_at + timeouts.first_byte_s, "first_byte_s"
        elif self._read_paused:  # it is we who wait, for a slow client
            due, limit = exchange.deadline, "total_s"
        else:
            due, limit = self._since + timeouts.idle_s, "idle_s"
        return (due, limit) if due < exchange.deadline else (exchange.deadline, "total_s")

    def _on_timer(self) -> None:
        if self._phase is IDLE or self._phase is CLOSED:
            return
        due, limit = self._due()
        if self.loop.time() < due:
            self._timer.arm(due)
        elif self._phase is DRAIN:
            self.abort()
        else:
            self._fail(UpstreamTimeout(detail=f"{self.origin}: {limit} has passed"))


def _ends_with_connection(exchange: Exchange) -> bool:
    """Whether the body is delimited by the connection's end (RFC 9112 section 6.3, rule 8)."""
    return not any(name == b"content-length" or name == b"transfer-encoding" for name, _ in exchange.headers)

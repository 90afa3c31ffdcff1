"""One request and its answer: what the ASGI app gets as `receive` and `send`.

As in uvicorn, `send` waits while the client does not read, and is quiet once the client has left: only `receive` tells.
An answer without a Content-Length is chunked, or ends with the connection where the client speaks HTTP/1.0.

The answer's head leaves with the first bytes of its body, as ASGI has it: a write of its own costs the kernel 8 µs, 4 % of a
whole request.
"""

import asyncio
import http
import logging
import re
from collections.abc import Awaitable, Callable, Hashable, MutableMapping
from functools import lru_cache
from typing import Any, Protocol

from xrouter.errors import InternalError, ShuttingDown, XRouterError
from xrouter.front.head import Head

Message = MutableMapping[str, Any]
Scope = dict[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

ON_DISCONNECT = "xrouter.on_disconnect"  # key of `Exchange.on_disconnect` in the scope
DISCARD_BYTES = 64 * 1024  # the most that is read of a request once its answer is known
_JOINED_BYTES = 64 * 1024  # a body up to this is copied behind its head, for one write; a larger one is a second write

_STATUS_LINES = {
    int(status): b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode("ascii")) for status in http.HTTPStatus
}
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_END = b"\r\n"
_TEXT = bytes({*range(256)} - {*range(32), 0x7F} | {0x09})  # what a header line may hold before its end
_FRAMING = frozenset({b"content-length: ", b"connection: ", b"transfer-encoding: "})
_NOTHING: Scope = {}
_NO_BODY = frozenset({204, 304})
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})

log = logging.getLogger("xrouter.front")


class Channel(Protocol):
    """What an exchange needs of its connection."""

    write: Callable[[bytes], None]
    write_paused: bool

    @property
    def default_lines(self) -> bytes:
        """Header lines that every answer gets."""

    async def drain(self) -> None:
        """Return once the client has read enough, or is gone."""

    def wait_for_body(self) -> None:
        """The app waits for more of the body: read on, and hold the client to its time."""

    def answered(self) -> None:
        """The last byte of the answer is written."""

    def refuse(self, error: XRouterError) -> None:
        """Answer in the app's place if nothing is written yet, else cut the answer off."""


@lru_cache(maxsize=256)
def field_start(name: bytes) -> bytes:
    """A header line up to its value. Apps use few names, so checking and lowering each once is enough."""
    if not _NAME.fullmatch(name):
        raise RuntimeError("invalid name of a response header")
    return name.lower() + b": "


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class Exchange:
    """See the module. The connection calls `feed`, `end` and `drop`; the app sees `receive` and `send`."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_channel",
        "_chunked",
        "_ended",
        "_head",
        "_left",
        "_news",
        "_on_drop",
        "_scope",
        "_version",
        "bodiless",
        "complete",
        "dropped",
        "expects_continue",
        "keep_alive",
        "started",
        "whole",
    )

    def __init__(self, channel: Channel, scope: Scope, head: Head) -> None:
        self.keep_alive = head.keep_alive  # whether the connection may carry another request
        self.expects_continue = head.expects_continue and head.body_bytes != 0  # the client waits for "100 Continue"
        self.bodiless = head.method == "HEAD"  # an answer has a head only
        self.whole = False  # the request's last byte has come
        self.started = False  # the answer's head is written
        self.complete = False  # the answer's last byte is written
        self.dropped = False  # the client is gone, or was answered in the app's place
        self._channel = channel
        self._scope = scope
        self._version = head.version
        self._body_bytes = head.body_bytes
        self._body: bytes | bytearray = b""
        self._ended = False  # the app has been given the body's end
        self._news: asyncio.Event | None = None  # made when `receive` has to wait
        self._on_drop: Callable[[], None] | None = None
        self._head: bytes | None = None  # of the answer: what the app has given, until it is written
        self._chunked = False
        self._left: int | None = None  # bytes of a declared answer that are still owed
        scope[ON_DISCONNECT] = self.on_disconnect

    # The connection's side.

    @property
    def buffered(self) -> int:
        return len(self._body)

    @property
    def path(self) -> str:
        path: str = self._scope["path"]
        return path

    def sender(self) -> Hashable:
        """Who asks, as far as that is known before the app looks: the credential, unchecked, or else the address."""
        headers: list[tuple[bytes, bytes]] = self._scope["headers"]
        for name, value in headers:
            if name in _CREDENTIALS:
                return value
        client: tuple[str, int] | None = self._scope["client"]
        return client and client[0]

    def answer(self, head: bytes, body: bytes) -> None:
        """Answer in the app's place, which has not begun. `head`: status line and fields, without the last line end."""
        self._spare_the_body()
        self._scope = {}  # as in `run`
        self.started = self.complete = True
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        self._channel.write(b"".join((head, end, b"" if self.bodiless else body)))
        self._channel.answered()

    def feed(self, data: bytes) -> None:
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            self._body = bytearray(self._body)
            self._body += data
        self._wake()

    def end(self) -> None:
        self.whole = True
        self._wake()

    def drop(self) -> None:
        self.dropped = True
        self._wake()
        callback, self._on_drop = self._on_drop, None  # a client leaves once
        if callback is not None and not self.complete:
            callback()

    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when the client leaves before its answer is complete; at once if it has left. None: no more.

        What `receive` tells, without a task that waits for it: a task, its cancellation and its traceback cost a request
        more than the rest of the front does.
        """
        if callback is not None and self.dropped and not self.complete:
            callback()
        else:
            self._on_drop = callback

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()

    # The app's side.

    async def run(self, app: App) -> None:
        """Run the app to its end. An app that fails without an answer is answered for."""
        scope, self._scope = self._scope, _NOTHING  # it refers back to this object, and is not to keep it alive
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._fail(ShuttingDown())
            raise
        except Exception:
            log.exception("Exception in ASGI application")
            self._fail(InternalError())
        else:
            if not self.complete and not self.dropped:
                log.error("The ASGI application returned without completing its answer")
                self._fail(InternalError())

    def _fail(self, error: XRouterError) -> None:
        if not self.complete and not self.dropped:
            self._channel.refuse(error)

    async def receive(self) -> Message:
        while True:
            if self.dropped or self.complete:
                return {"type": "http.disconnect"}
            if self._body or (self.whole and not self._ended):
                body, self._body = bytes(self._body), b""
                self._ended = self.whole
                return {"type": "http.request", "body": body, "more_body": not self.whole}
            if not self.whole:
                if self.expects_continue and not self.started:
                    self._channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    self.expects_continue = False
                self._channel.wait_for_body()
            if self._news is None:
                self._news = asyncio.Event()
            self._news.clear()
            await self._news.wait()

    async def send(self, message: Message) -> None:
        channel = self._channel
        if channel.write_paused and not self.dropped:
            await channel.drain()
        if self.dropped:
            return
        kind = message["type"]
        if kind == "http.response.body" and (self.started or self._head is not None) and not self.complete:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.start" and not self.started and self._head is None:
            self._take_head(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _take_head(self, status: int, app_headers: Any) -> None:
        self._spare_the_body()
        parts: list[bytes] = []
        declared: int | None = None
        for name, value in app_headers:
            start = field_start(name)
            if start in _FRAMING:
                if start == b"content-length: ":
                    declared = int(value)
                elif start == b"connection: " and b"close" in value.lower():
                    self.keep_alive = False
                if start != b"content-length: ":
                    continue  # the framing is the front's business
            parts += (start, value, _LINE_END)
        lines = b"".join(parts)
        if lines.translate(None, _TEXT) != _LINE_END * (len(parts) // 3):
            raise RuntimeError("invalid value of a response header")
        framing = b""
        if self.bodiless or status in _NO_BODY:
            self._left = 0
        elif declared is not None:
            self._left = declared
        elif self._version == "1.1":
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            self.keep_alive = False
        end = _LINE_END if self.keep_alive else b"connection: close\r\n\r\n"
        self._head = b"".join((status_line(status), self._channel.default_lines, lines, framing, end))

    def _spare_the_body(self) -> None:
        """Answered before the body has come: reading the rest away may cost more than a new connection."""
        if not self.whole and (self.expects_continue or self._body_bytes is None or self._body_bytes > DISCARD_BYTES):
            self.keep_alive = False

    def _send_body(self, body: bytes, more_body: bool) -> None:
        if self._chunked:
            if body:
                self._write(b"%x\r\n%b%b" % (len(body), body, b"\r\n" if more_body else b"\r\n0\r\n\r\n"))
            else:
                self._write(b"" if more_body else b"0\r\n\r\n")
        elif self.bodiless or self._left is None:
            self._write(b"" if self.bodiless else body)
        else:
            if len(body) > self._left:
                raise RuntimeError("the answer is longer than its Content-Length")
            self._left -= len(body)
            self._write(body)
            if not more_body and self._left:
                raise RuntimeError("the answer is shorter than its Content-Length")
        if not more_body:
            self.complete = True
            if self._news is not None:
                self._news.set()
            self._channel.answered()

    def _write(self, data: bytes) -> None:
        """`data`, behind the head where that has not left yet."""
        head, self._head = self._head, None
        if head is not None:
            self.started = True
            if len(data) > _JOINED_BYTES:
                self._channel.write(head)
            else:
                data = head + data
        if data:
            self._channel.write(data)

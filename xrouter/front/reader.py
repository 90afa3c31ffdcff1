"""Bytes of one connection in, checked requests out: httptools with limits.

httptools counts nothing: it takes heads of any size and any amount of chunk extensions and trailers. Here the head's size is
counted as it comes, and a body's framing may not be far more than its data. Trailers are read and forgotten.
"""

from typing import Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from xrouter.config.settings import Server
from xrouter.errors import BadRequest, XRouterError
from xrouter.front.exchange import log
from xrouter.front.head import MAX_TARGET_BYTES, Head, HeadersTooLarge, TargetTooLong

_FRAMING_BYTES = 64 * 1024  # chunk sizes, extensions and trailers that a body may have for nothing,
_FRAMING_SHARE = 8  # and for every byte of its data


class Surplus(Exception):
    """A request begins that must not be read."""


class Sink(Protocol):
    """Who takes the requests: the connection."""

    def may_begin(self) -> bool:
        """Whether another request may be read now."""

    def begin(self, head: Head) -> None: ...

    def body(self, data: bytes) -> None: ...

    def end(self) -> None:
        """The request has come whole."""


class Reader:
    """See the module. `heard`: bytes of the next request have come; `begun`: more than line ends."""

    __slots__ = ("_framing", "_head", "_head_bytes", "_headers", "_limits", "_parser", "_sink", "_target", "begun")

    def __init__(self, sink: Sink, limits: Server) -> None:
        self.begun = False
        self._sink = sink
        self._limits = limits
        self._parser = HttpRequestParser(self)
        self._head: Head | None = None  # of the request whose body is coming
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._framing = 0  # bytes that are left to it

    @property
    def heard(self) -> bool:
        return self.begun or self._head_bytes > 0

    def close(self) -> None:
        """Let go what refers back to this object."""
        del self._parser, self._sink

    def feed(self, data: bytes) -> None:
        """Read on. Raises Surplus, or BadRequest and its like; nothing may be fed after that."""
        if self._head is None:
            self._head_bytes += len(data)
        else:
            self._framing -= len(data)
        try:
            self._parse(data)
        except HttpParserError as error:
            raise _cause(error) from None
        if self._head_bytes > self._limits.max_header_bytes:
            raise HeadersTooLarge
        if self._framing < 0:
            raise BadRequest("The request body has far more framing than data")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
            return
        except HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        self._ignore_upgrade(rest)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the body of a request that asks for another protocol as HTTP/1.1, as RFC 9110 section 7.8 allows.

        Every JDK HttpClient asks for h2c in its first request without TLS. llhttp then takes the body for HTTP/2, and
        httptools knows no way back (its issue 124): a new parser is told the body's framing, and goes on from there.
        """
        assert self._head is not None
        self._head.upgrade = False
        length = self._head.body_bytes
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % framing)
        self._parser.feed_data(rest)

    # The parser's calls. While `_head` is set, they are about its body, its trailers or the head made up above.

    def on_message_begin(self) -> None:
        if self._head is None:
            if not self._sink.may_begin():
                raise Surplus
            self.begun = True
            self._target = b""
        self._headers = []

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > MAX_TARGET_BYTES:
            raise TargetTooLong

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._head is not None:
            return
        parser = self._parser
        head = Head(parser.get_method(), self._target, parser.get_http_version(), self._headers, self._limits)
        head.keep_alive = head.version == "1.1" and parser.should_keep_alive()
        head.upgrade = parser.should_upgrade()
        self._sink.begin(head)
        self._head = head
        self._headers = []
        self.begun = False
        self._head_bytes = 0
        self._framing = _FRAMING_BYTES

    def on_body(self, data: bytes) -> None:
        self._framing += len(data) * (1 + _FRAMING_SHARE)
        self._sink.body(data)

    def on_message_complete(self) -> None:
        assert self._head is not None
        if not self._head.upgrade:
            self._head = None
            self._framing = 0
            self._sink.end()


def _cause(error: HttpParserError) -> Exception:
    """What the parser stopped at. llhttp's reasons are fixed sentences without a byte of the request."""
    cause = error.__context__
    if isinstance(cause, (XRouterError, Surplus)):
        return cause
    if isinstance(error, HttpParserCallbackError) and cause is not None:
        log.error("The front failed while reading a request", exc_info=cause)
        return BadRequest()
    return BadRequest(f"The request is not valid HTTP/1.1: {error}")

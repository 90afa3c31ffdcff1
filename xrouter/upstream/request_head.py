"""A request's head as bytes (RFC 9112 section 3). Refuses what would let a value become a header of its own."""

import re
from functools import lru_cache

from xrouter import __version__
from xrouter.upstream.base import Headers, UpstreamRequest
from xrouter.upstream.target import Target, parse_target

USER_AGENT = f"xrouter/{__version__}".encode()

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110 section 5.6.2, in the lower case that `Headers` promises
_FRAMING = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"te"})
_METHODS_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


def _prefix(method: str, target: Target) -> bytes:
    if not _TOKEN.fullmatch(method.lower().encode()):
        raise ValueError("the method of an upstream request is not a token")
    return b"%s %s HTTP/1.1\r\nhost: %s\r\n" % (method.encode(), target.path, target.authority)


@lru_cache(maxsize=1024)
def _checked_name(name: bytes) -> bytes:
    """`name` with its colon. Framing is the engine's: a header that says otherwise would desynchronise the connection."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name in lower case")
    if name in _FRAMING:
        raise ValueError(f"the header {name.decode()} is written by the engine")
    return name + b": "


def default_headers(headers: Headers) -> Headers:
    """What the engine adds where `headers` lack it. Compression is refused: translators read bytes as they come."""
    names = {name for name, _ in headers}
    ours = ((b"user-agent", USER_AGENT), (b"accept-encoding", b"identity"))
    return tuple(header for header in ours if header[0] not in names)


_DEFAULT_LINES = b"".join(b"%s: %s\r\n" % header for header in default_headers(()))


def encode_head(request: UpstreamRequest) -> bytes:
    """The request line and header section with its empty line.

    Raises ValueError for a header that is not one line, an unfit name or URL: programming errors, never a client's doing.
    """
    head = _start(request.method, request.url, request.headers)
    if request.body or request.method not in _METHODS_WITHOUT_BODY:
        return b"%bcontent-length: %d\r\n\r\n" % (head, len(request.body))
    return head + b"\r\n"


@lru_cache(maxsize=256)
def _start(method: str, url: str, headers: Headers) -> bytes:
    """All but the length: mostly the same for each call of one upstream, 1.5 µs less then."""
    return _prefix(method, parse_target(url)) + _lines(headers)


def _lines(headers: Headers) -> bytes:
    """The header lines, ours included."""
    pieces: list[bytes] = []
    defaults = _DEFAULT_LINES
    for name, value in headers:
        if name == b"user-agent" or name == b"accept-encoding":
            defaults = b"".join(b"%s: %s\r\n" % header for header in default_headers(headers))
        pieces += (_checked_name(name), value, b"\r\n")
    lines = b"".join(pieces)
    # One scan instead of one for each value: exactly one line end for each header, and nothing that could be read as one.
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or b"\0" in lines:
        raise ValueError("a header's value holds a line break or NUL")
    return lines + defaults

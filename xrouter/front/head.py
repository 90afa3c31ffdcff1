"""Which request heads are believed.

llhttp (inside httptools, no leniency switched on) refuses by itself bare line feeds, folded headers, control characters,
spaces before a colon, a Content-Length that is doubled, listed, signed or beside Transfer-Encoding, and methods that it
does not know. What it lets through and the app must not see is refused here: HTTP/0.9 and 2, Host missing, doubled or odd
(RFC 9112 section 3.2), targets other than a path (section 3.2), transfer codings other than `chunked` (section 6.1), and
paths that two readers could read differently. The app routes and authorises on `path`, so every path is refused that
another hop could normalise into a different one: dot segments, encoded control characters, backslashes, broken escapes.
"""

import re
from urllib.parse import unquote_to_bytes

from xrouter.config.settings import Server
from xrouter.errors import BadRequest, MethodNotAllowed

MAX_TARGET_BYTES = 8 * 1024
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_READ = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
_LINE_BYTES = 4  # the colon, the space and the line end of a header field
_PATH = re.compile(rb'/[!"$-\[\]-~]*')  # printable ASCII without `#` and `\`
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class TargetTooLong(BadRequest):
    status = 414
    message = "The request target is too long"


class HeadersTooLarge(BadRequest):
    status = 431
    message = "The request headers are too large"


def split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """The decoded path, the path as it came, and the query. Raises BadRequest."""
    if len(target) > MAX_TARGET_BYTES:
        raise TargetTooLong
    raw_path, _, query = target.partition(b"?")
    if not _PATH.fullmatch(raw_path) or b"#" in query:
        raise BadRequest("The request target is not a plain path")
    path = _decode(raw_path) if b"%" in raw_path else raw_path.decode("ascii")
    if "/." in path and not {".", ".."}.isdisjoint(path.split("/")):
        raise BadRequest("The path holds dot segments")
    return path, raw_path, query


def _decode(raw_path: bytes) -> str:
    if _BROKEN_ESCAPE.search(raw_path):
        raise BadRequest("The path holds a broken percent escape")
    try:
        path = unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise BadRequest("The path is not UTF-8") from None
    if _UNSAFE.search(path):
        raise BadRequest("The path holds an encoded control character or backslash")
    return path


class Head:
    """A checked request head. `body_bytes`: the declared length of the body, None where it is chunked."""

    __slots__ = (
        "body_bytes",
        "expects_continue",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_path",
        "upgrade",
        "version",
    )

    def __init__(
        self, method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]], limits: Server
    ) -> None:
        """`headers` have their names in lower case; white space that llhttp leaves after values is trimmed in place.

        Raises BadRequest and its like, MethodNotAllowed.
        """
        if version not in ("1.1", "1.0"):
            raise BadRequest("The HTTP version is not 1.1 or 1.0")
        self.version = version
        self.method = method.decode("ascii")
        if self.method not in METHODS:
            raise MethodNotAllowed("This method is not supported")
        self.path, self.raw_path, self.query = split_target(target)
        self.headers = headers
        self.body_bytes: int | None = 0
        self.expects_continue = False
        self.keep_alive = False
        self.upgrade = False  # the client asks for another protocol
        self._read_fields(limits)

    def _read_fields(self, limits: Server) -> None:
        headers = self.headers
        if len(headers) > limits.max_headers:
            raise HeadersTooLarge("The request has too many header fields")
        size = len(headers) * _LINE_BYTES
        host: bytes | None = None
        for index, (name, value) in enumerate(headers):
            size += len(name) + len(value)
            if value[-1:] in (b" ", b"\t"):
                value = value.rstrip(b" \t")
                headers[index] = (name, value)
            if name not in _READ:
                continue
            if name == b"host":
                if host is not None:
                    raise BadRequest("The request has more than one Host")
                host = value
            elif name == b"content-length":
                self.body_bytes = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked" or self.version != "1.1":
                    raise BadRequest("The only transfer coding that is understood is `chunked`, in HTTP/1.1")
                self.body_bytes = None
            elif name == b"expect":
                self.expects_continue = self.version == "1.1" and value.lower() == b"100-continue"
        if size > limits.max_header_bytes:
            raise HeadersTooLarge
        if host is None:
            if self.version == "1.1":
                raise BadRequest("The request has no Host")
        elif not _HOST.fullmatch(host):
            raise BadRequest("The request's Host is not a host name or address with an optional port")

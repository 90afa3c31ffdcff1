"""A configured URL taken apart once: where to connect to, and what to write in the request line."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit


class Origin(NamedTuple):
    """Scheme, host and port: what a connection, and a credential, belongs to (RFC 6454 section 4)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Target(NamedTuple):
    """`path` is the request target in origin form (RFC 9112 section 3.2.1); `authority` the value of `Host`."""

    origin: Origin
    path: bytes
    authority: bytes


_DEFAULT_PORTS = {"http": 80, "https": 443}


@lru_cache(maxsize=1024)
def parse_target(url: str) -> Target:
    """Take `url` apart. Raises ValueError for anything but a plain absolute http(s) URL of printable ASCII.

    User info and fragments are refused, not ignored: `http://trusted@other/` and `http://other#.trusted/` are the classic
    ways to send a credential elsewhere (fault matrix F45).
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("an upstream's URL must be printable ASCII without spaces and backslashes")
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("an upstream's URL must begin with http:// or https://")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise ValueError("an upstream's URL must not hold user information or a fragment")
    if not parts.hostname:
        raise ValueError("an upstream's URL must name a host")
    default_port = _DEFAULT_PORTS[parts.scheme]
    origin = Origin(parts.scheme, parts.hostname, parts.port if parts.port is not None else default_port)
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    authority = host if origin.port == default_port else f"{host}:{origin.port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(origin, path.encode(), authority.encode())

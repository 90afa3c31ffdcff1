"""What an upstream engine is: one request out, one answer back, in bytes.

Two engines answer this interface and pass one conformance suite (tests/upstream/test_conformance.py): `http1`, our own on
httptools, and `httpx2`.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from xrouter.errors import UpstreamProtocolError

Headers = tuple[tuple[bytes, bytes], ...]  # names in lower case


class UpstreamRequest(Struct, frozen=True):
    """`url` is absolute and was configured, never built from what a client sent.

    `pace` names a rate that this kind of call keeps to (calls a second), e.g. ("embeddings", 10.0).
    """

    method: str
    url: str
    headers: Headers = ()
    body: bytes = b""
    pace: tuple[str, float] | None = None
    idempotent: bool = False  # may be sent again although the upstream may have seen it

    def with_headers(self, extra: Iterable[tuple[bytes, bytes]]) -> "UpstreamRequest":
        return UpstreamRequest(self.method, self.url, (*self.headers, *extra), self.body, self.pace, self.idempotent)


class UpstreamAnswer(Struct, frozen=True):
    """An answer read to its end."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return header(self.headers, name)


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first value of `name` (lower case)."""
    for key, value in headers:
        if key == name:
            return value
    return None


@dataclass(frozen=True, slots=True)
class Limits:
    """What an answer may be before it is refused as garbage."""

    head_bytes: int = 64 * 1024
    headers: int = 128
    buffered_bytes: int = 256 * 1024  # reading from the socket pauses above this


class UpstreamResponse(Protocol):
    """An answer whose head has come. Iterate it for the body, in pieces as they come.

    Raises UpstreamTimeout, UpstreamProtocolError or UpstreamError while being read. Close it always, however the reading
    ended: a body that was not read to its end costs the connection, never poisons it.
    """

    status: int
    headers: Headers

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body's pieces; none is empty."""

    def arrived(self) -> bytes | None:
        """The next piece where it need not be waited for: b'' at the body's end, None if only iterating can tell."""

    def finish(self) -> None:
        """The caller needs no more of the body and expects its end at once: keep the connection if so. Never waits."""

    async def aclose(self) -> None:
        """Idempotent. Does not wait for the network."""


class Engine(Protocol):
    """A pool of connections to one upstream's hosts."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send `request`, return when the head of its final answer has come (1xx are skipped).

        Raises UpstreamUnreachable (nothing reached the upstream: safe to try elsewhere), UpstreamTimeout,
        UpstreamProtocolError. A stale pooled connection is retried once on a new one when nothing was received.
        Cancellation at any point closes the connection that was in use.
        """

    async def aclose(self) -> None:
        """Close every connection."""

    def stats(self) -> "PoolStats": ...


@dataclass(slots=True)
class PoolStats:
    idle: int = 0
    active: int = 0
    opened: int = 0  # connections made since the start
    reused: int = 0
    by_origin: dict[str, int] = field(default_factory=dict)


async def read_whole(response: UpstreamResponse, limit: int) -> UpstreamAnswer:
    """Read the body to its end and close. Raises UpstreamProtocolError if it is longer than `limit` bytes."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in response:
            size += len(piece)
            if size > limit:
                raise UpstreamProtocolError("The upstream's answer is too long", detail=f"more than {limit} bytes")
            pieces.append(piece)
    finally:
        await response.aclose()
    return UpstreamAnswer(response.status, response.headers, b"".join(pieces))

"""Read the request's body once, decode it once."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from xrouter.config.size import ByteSize
from xrouter.context import context
from xrouter.errors import BadRequest, PayloadTooLarge
from xrouter.filters.base import ASGIApp, Receive, Scope, Send
from xrouter.surfaces.openai import read_call

_READ: Final = frozenset({b"content-length", b"content-encoding"})


class ClientLeft(Exception):
    """The client went away while its request was being read; there is nobody to answer."""


class Body:
    """Provide `call`: the JSON body, typed and checked. A body over `max_bytes` is refused before it is read."""

    needs: ClassVar[frozenset[str]] = frozenset()
    provides: ClassVar[frozenset[str]] = frozenset({"call"})

    @dataclass(frozen=True, slots=True)
    class Config:
        max_bytes: ByteSize = ByteSize(20 * 1000 * 1000)

    def __init__(self, app: ASGIApp, config: Config, services: Any) -> None:
        self.app, self.max_bytes = app, config.max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        ctx.call = read_call(ctx.endpoint.name, await read_body(scope, receive, self.max_bytes))
        await self.app(scope, receive, send)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it is known to be longer, and ClientLeft."""
    _check_headers(scope["headers"], max_bytes)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece = message.get("body", b"")
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not pieces and not message.get("more_body", False):
            return bytes(piece)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def _check_headers(headers: list[tuple[bytes, bytes]], max_bytes: int) -> None:
    for name, value in headers:
        if name not in _READ:
            continue
        if name == b"content-length" and int(value) > max_bytes:
            raise _too_large(max_bytes)
        if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            raise BadRequest("A compressed body is not accepted: send it as it is")


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {max_bytes} bytes")

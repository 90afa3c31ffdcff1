"""uvicorn's HTTP protocol with one ability more: the app may end the connection in the middle of an answer."""

import asyncio
import socket
import struct

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from xrouter.sandbox.delivery import CONNECTION


class Connection:
    """The extension `delivery.CONNECTION` of a request's scope."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        """Write what is buffered, then FIN."""
        self._transport.close()

    def reset(self) -> None:
        """RST at once."""
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class SandboxProtocol(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: Connection(self.transport)}  # type: ignore[dict-item]

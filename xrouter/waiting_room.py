"""What is answered at a gateway's address while it waits for its store: alive, not ready, and 503 to who wants more.

Each answer closes its connection, so that the next request of the same client finds the gateway itself.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from xrouter.config.settings import Server
from xrouter.errors import StoreUnavailable
from xrouter.filters.base import Receive, Scope, Send
from xrouter.front.refusal import Refusal
from xrouter.front.server import FrontServer, build_server
from xrouter.ids import time_ordered
from xrouter.wire import encode_json
from xrouter.world import World

_RETRY_AFTER_S: Final = 1
_AWAY: Final = encode_json({"status": "degraded", "components": {"store": {"status": "unreachable"}}})
_HEALTH: Final = {
    "/health/live": (200, encode_json({"status": "ok"})),
    "/health/ready": (503, encode_json({"status": "not ready"})),
    "/health": (503, _AWAY),
}


class WaitingRoom:
    """The ASGI application that turns away. `on_refusal` is told of each request that it does not take."""

    def __init__(
        self, listener: socket.socket, server: Server, world: World, on_refusal: Callable[[Refusal], None]
    ) -> None:
        self._listener = listener
        self._settings = server
        self._world = world
        self._on_refusal = on_refusal
        self._server: FrontServer | None = None
        self._serving: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to answer. Opened twice it is open; where another instance shares the port, the answers are left to it."""
        if self._serving is None and not self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            sockets = [self._listener.dup()]  # the other one stays open: what comes in between waits there
            self._server = build_server(
                self, self._settings, sockets=sockets, lifespan="off", on_refusal=self._on_refusal
            )
            self._serving = asyncio.create_task(self._server.serve(), name="waiting room")

    def close(self) -> None:
        """Accept nobody any more. What has been accepted is answered."""
        if self._server is not None:
            self._server.stop()

    async def aclose(self) -> None:
        """Wait until it is answered."""
        self.close()
        if self._serving is not None:
            await self._serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        if scope["path"] in _HEALTH:
            status, body = _HEALTH[scope["path"]]
        else:
            error = StoreUnavailable(retry_after_s=_RETRY_AFTER_S)
            client = scope["client"]
            refusal = Refusal(time_ordered(self._world), client[0] if client else "", error)
            status, body = error.status, error.encoded()
            headers += [
                (b"x-request-id", refusal.request_id.encode("ascii")),
                (b"retry-after", b"%d" % _RETRY_AFTER_S),
            ]
            self._on_refusal(refusal)
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

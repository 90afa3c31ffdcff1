"""The sandbox on a socket."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from xrouter.sandbox.app import create_app
from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.protocol import SandboxProtocol

_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the server's certificate (with its chain) and key."""

    cert_file: str
    key_file: str


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, and that ends without waiting for streams."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: the kernel's choice. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def server(app: ASGIApp, tls: TlsFiles | None, ready: Callable[[], None]) -> Server:
    config = uvicorn.Config(
        app,
        http=SandboxProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=tls.cert_file if tls else None,
        ssl_keyfile=tls.key_file if tls else None,
        timeout_keep_alive=75,
    )
    return Server(config, ready)


def run(
    host: str,
    port: int,
    *,
    tls: TlsFiles | None = None,
    config: SandboxConfig | None = None,
    more_ports: Sequence[int] = (),
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGINT or SIGTERM, on `port` and on each of `more_ports`; `ready` is called once all accept."""
    listeners = [listen(host, each) for each in (port, *more_ports)]
    server(create_app(config), tls, ready).run(sockets=listeners)

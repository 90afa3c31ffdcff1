"""The sandbox on a socket."""

import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from xrouter.sandbox.app import create_app
from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.protocol import SandboxProtocol
from xrouter.sandbox.state import SandboxState

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


def run(host: str, port: int, tls: TlsFiles | None = None, config: SandboxConfig | None = None) -> None:
    """Serve until SIGINT or SIGTERM. Raises OSError if the port is taken."""
    run_until_signal(SandboxState(config or SandboxConfig()), host, (port,), tls, lambda ports: None)


def run_until_signal(
    state: SandboxState,
    host: str,
    ports: Sequence[int],
    tls: TlsFiles | None,
    announce: Callable[[tuple[int, ...]], None],
) -> None:
    """Serve on each of `ports` (0: any free one) until SIGINT or SIGTERM; `announce` is told them once all accept."""
    listeners = [listen(host, port) for port in ports]
    bound = tuple(each.getsockname()[1] for each in listeners)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it once it has ended by SIGINT
        server(create_app(state=state), tls, lambda: announce(bound)).run(sockets=listeners)

"""A server in a thread, with an event loop of its own: real sockets for tests and benches."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import uvloop

from xrouter.config.settings import Server
from xrouter.front.refusal import Refusal
from xrouter.front.server import Lifespan, build_server, log_refusal
from xrouter.front.start_queue import Reason


class ThreadedServer:
    """Serves an app from a thread with its own event loop, on a port of the kernel's choice: for tests and benches."""

    def __init__(
        self,
        app: Any,
        server: Server | None = None,
        *,
        lifespan: Lifespan = "auto",
        on_refusal: Callable[[Refusal], None] = log_refusal,
        on_shed: Callable[[Reason], None] = lambda reason: None,
    ) -> None:
        settings = server or Server(port=0, drain_s=2)
        self.server = build_server(app, settings, lifespan=lifespan, on_refusal=on_refusal, on_shed=on_shed)
        self.url = self.server.url
        self.host, self.port = self.server.sockets[0].getsockname()[:2]
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    def _run(self) -> None:
        try:
            uvloop.run(self.server.serve())
        except BaseException as failure:  # handed to the thread that waits in __enter__ or __exit__
            self._failure = failure
        finally:
            self.server.running.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self.server.running.wait()
        if not self.server.started:
            self._thread.join()
            raise RuntimeError("the server did not start") from self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()
        self._thread.join()
        if self._failure is not None and error is None:
            raise RuntimeError("the server broke") from self._failure


@contextlib.contextmanager
def running(app: Any, server: Server | None = None, *, lifespan: Lifespan = "auto") -> Iterator[str]:
    """The base URL of `app`, served from a thread for as long as the block lasts."""
    with ThreadedServer(app, server, lifespan=lifespan) as threaded:
        yield threaded.url

"""A real redis-server of a test's own: started on a port of the kernel's choice, killed, frozen and started again by pid."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """`options` are redis-server's own, as on its command line. Nothing is kept on disk."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, tls: bool = False) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self.tls = tls
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        listen = ["--port", "0", "--tls-port", str(self.port)] if self.tls else ["--port", str(self.port)]
        command = ["redis-server", *listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (self.folder / f"redis-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--dir", str(self.folder), *self.options], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                assert self._process.poll() is None, "redis-server ended at once; see its log"
                assert time.monotonic() < deadline, "redis-server does not listen"
                time.sleep(0.01)

    def kill(self) -> None:
        """As the kernel would: no word to anybody."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def freeze(self) -> None:
        """Connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def client(self) -> "redis.Redis":
        """A blocking client, to look at and to spoil what is stored."""
        return redis.Redis(host="127.0.0.1", port=self.port, ssl=self.tls, ssl_cert_reqs="none", decode_responses=True)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()


@contextmanager
def running_redis(folder: Path, *options: str, **how: bool) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options, **how)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.stop()

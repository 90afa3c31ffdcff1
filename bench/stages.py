"""What each stage of a request costs: the chain built up step by step, all in one process and in memory.

    python bench/stages.py [--config bench/full.yaml] [--rounds N]

Clients and upstream are transports in memory, so no socket, no kernel and no other process is in these figures: they are the
interpreter's own work, and the differences between two lines of one run are what the stage adds. A round serves the same
requests by every variant in turn, and the fastest round of each counts: whatever else the machine does only adds.
"""

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
import unittest.mock
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from uvicorn.server import ServerState

from xrouter.app import Gateway
from xrouter.auth.issue import issue
from xrouter.chain import Chain, build_chain
from xrouter.commands.serve import settle_garbage_collection
from xrouter.config.load import load
from xrouter.config.settings import Server
from xrouter.edge import Edge
from xrouter.front.connection import Connection, Front
from xrouter.ledger.direct import apply_once
from xrouter.ledger.operations import Transfer
from xrouter.observe.logs import LogWriter
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.surfaces.base import NANO
from xrouter.world import RealWorld

BODY = (
    b'{"model":"bench","messages":[{"role":"system","content":"You are a helpful assistant."},'
    b'{"role":"user","content":"What is the capital of Peru?"}],"temperature":0.5,"max_tokens":100}'
)
_WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"bench","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"The capital of Peru is Lima. It lies on the Pacific coast."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":12,"completion_tokens":14,"total_tokens":26}}'
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_WHOLE), _WHOLE)
CONNECTIONS = 32
_GRANT = Transfer(kind="grant", account="bench", amount_nano=10**8 * NANO, reason="bench", author="bench")
App = Callable[[Any, Any, Any], Awaitable[None]]


class MemoryTransport(asyncio.Transport):
    """A socket's place under `protocol`. What is written to it goes to `on_write`."""

    def __init__(self, protocol: asyncio.BaseProtocol, on_write: Callable[[Any], Any]) -> None:
        super().__init__()
        self.write = on_write  # type: ignore[method-assign,assignment]
        self.protocol = protocol
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def dial_memory(
    origin: object, tls: object, protocol: Callable[[], Any], connect_s: float, total_at: float
) -> Any:
    """In the place of `xrouter.upstream.dial.dial`: a connection whose upstream answers in the loop's next turn."""
    loop = asyncio.get_running_loop()
    made = protocol()
    made.connection_made(MemoryTransport(made, lambda data: loop.call_soon(made.data_received, ANSWER)))
    return made


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """The stand-in for all stages that a variant leaves out."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_WHOLE))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _WHOLE, "more_body": False})


class Clients:
    """So many clients of one app, each with one request under way at a time."""

    def __init__(self, app: App, request: bytes, connections: int = CONNECTIONS) -> None:
        self._request = request
        self._left = 0
        self._done = asyncio.Event()
        config = type("Config", (), {"loaded_app": staticmethod(app)})
        front = Front(Server(), RealWorld(), connections + 1, lambda refusal: None, b"date: now\r\n")
        state = ServerState()
        self._connections = [front(config(), state, {}, asyncio.get_running_loop()) for _ in range(connections)]
        for connection in self._connections:
            connection.connection_made(MemoryTransport(connection, partial(self._written, connection)))

    def _written(self, connection: Connection, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            assert data.startswith(b"HTTP/1.1 200 "), data
            if data.endswith(b"\r\n\r\n"):
                return  # a head by itself
        self._left -= 1
        if self._left >= len(self._connections):
            asyncio.get_running_loop().call_soon(connection.data_received, self._request)
        elif not self._left:
            self._done.set()

    async def serve(self, requests: int) -> float:
        """Seconds of CPU that `requests` of them took."""
        self._left = requests
        self._done.clear()
        began = time.process_time()
        for connection in self._connections:
            connection.data_received(self._request)
        await self._done.wait()
        return time.process_time() - began

    def close(self) -> None:
        for connection in self._connections:
            connection.shutdown()


@dataclass(frozen=True)
class Stage:
    name: str
    app: App


@contextlib.contextmanager
def _memory_upstream() -> Iterator[None]:
    with unittest.mock.patch("xrouter.upstream.http1.dial", dial_memory):
        yield


class _Silent:
    """Nothing is counted and nothing is logged."""

    in_flight = 0

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: object, **kwargs: object) -> None:
        return None


async def open_gateway(config: Path, folder: Path) -> tuple[Gateway, bytes]:
    """A gateway over the memory upstream, and a key of it with credits."""
    os.environ |= {"BENCH_STORE": f"sqlite:///{folder}/bench.db", "BENCH_UPSTREAM": "http://127.0.0.1:9/v1"}
    settings = load(config, os.environ)
    engine = await open_store(settings.store)
    key = (await issue(KeyStore(engine, RealWorld()), NewKey(name="bench", account="bench"))).secret.reveal()
    await engine.dispose()
    gateway = Gateway(settings, log_writer=LogWriter(open(os.devnull, "wb")))  # noqa: SIM115
    await gateway.start()
    assert gateway._engine is not None
    await apply_once(gateway._engine, RealWorld(), _GRANT)
    return gateway, key.encode()


def stages(gateway: Gateway) -> list[Stage]:
    assert gateway._running is not None
    services = gateway._running.services
    built: list[Stage] = [Stage("front", answer)]

    def with_chain(chain: Chain, metrics: Any = gateway.metrics, log: Any = gateway.log_writer) -> App:
        return Edge(chain, gateway.world, log, metrics, ())

    built.append(Stage("edge, metrics, log", with_chain(Chain(answer, answer, ()))))
    entries = gateway.settings.filters
    for count in range(1, len(entries) + 1):
        app: App = answer
        for entry in reversed(entries[:count]):
            app = entry.filter(app, entry.config, services)
        built.append(Stage(entries[count - 1].name, with_chain(Chain(app, app, ()))))
    chain = build_chain(entries, services)
    built.append(Stage("dispatch, provider, engine", with_chain(chain)))
    built.append(Stage("(the same without metrics)", with_chain(chain, metrics=_Silent())))
    built.append(Stage("(the same without the log)", with_chain(chain, log=_Silent())))
    return built


async def measure(config: Path, rounds: int, requests: int) -> Sequence[tuple[str, float]]:
    """Each variant's name and its microseconds of CPU a request, in its fastest round."""
    with tempfile.TemporaryDirectory() as folder, _memory_upstream():
        gateway, key = await open_gateway(config, Path(folder))
        request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (key, len(BODY), BODY)
        )
        variants = [(stage.name, Clients(stage.app, request)) for stage in stages(gateway)]
        for _, clients in variants:
            await clients.serve(5 * CONNECTIONS)
        settle_garbage_collection()
        fastest = dict.fromkeys((name for name, _ in variants), float("inf"))
        for _ in range(rounds):
            for name, clients in variants:
                fastest[name] = min(fastest[name], await clients.serve(requests))
        for _, clients in variants:
            clients.close()
        await gateway.aclose()
    return [(name, seconds / requests * 1e6) for name, seconds in fastest.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / "bench.yaml")
    parser.add_argument("--rounds", type=int, default=150, help="of which the fastest counts (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=96, help="of each variant in a round (default: %(default)s)")
    args = parser.parse_args()
    before = 0.0
    print(f"{'up to and with':32} {'µs':>7} {'adds':>7}")
    for name, micros in uvloop.run(measure(args.config, args.rounds, args.requests)):
        print(f"{name:32} {micros:7.1f} {micros - before:7.1f}")
        before = micros


if __name__ == "__main__":
    main()

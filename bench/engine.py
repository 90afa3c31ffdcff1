"""Requests a second of the upstream engines against a raw mock on loopback, in one run, as ratios.

    .venv/bin/python bench/engine.py [--seconds 3] [--concurrency 64]

The mock runs in a process of its own, on another core where there is one. Absolute figures drift with the machine: read the
ratios. `raw` is the floor: the same bytes written and read by a bare asyncio protocol that parses nothing.
"""

import argparse
import asyncio
import multiprocessing
import os
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import uvloop

from xrouter.upstream.base import Engine, UpstreamRequest, read_whole
from xrouter.upstream.http1 import Http1Engine
from xrouter.upstream.httpx2_engine import Httpx2Engine

BODY = (
    b'{"id":"1","object":"chat.completion","choices":[{"message":{"role":"assistant","content":"'
    + b"x" * 400
    + b'"}}]}'
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNK = b'data: {"choices":[{"delta":{"content":"word "}}]}\n\n'
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
QUESTION = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
CHUNKS = 50


class Mock(asyncio.Protocol):
    """Answers every request, recognised by its body's end; the path /stream with 50 chunks, each its own write."""

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        cast(socket.socket, transport.get_extra_info("socket")).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.received.endswith(QUESTION):
            return
        data, self.received = self.received, b""
        if data.startswith(b"POST /stream"):
            self.transport.write(STREAM_HEAD)
            self.step(CHUNKS)
        else:
            self.transport.write(ANSWER)

    def step(self, left: int) -> None:
        if left:
            self.transport.write(b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK))
            asyncio.get_running_loop().call_soon(self.step, left - 1)
        else:
            self.transport.write(b"0\r\n\r\n")


def serve(listener: socket.socket, core: int) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Mock, sock=listener)
        await server.serve_forever()

    os.sched_setaffinity(0, {core})
    uvloop.run(run())


async def rate(call: Callable[[], Awaitable[None]], concurrency: int, seconds: float) -> float:
    """Calls a second with `concurrency` of them at a time, after a short warm-up."""
    loop = asyncio.get_running_loop()
    done = 0

    async def worker(until: float) -> None:
        nonlocal done
        while loop.time() < until:
            await call()
            done += 1

    for duration in (0.3, seconds):
        done = 0
        started = loop.time()
        await asyncio.gather(*(worker(started + duration) for _ in range(concurrency)))
    return done / (loop.time() - started)


class Raw(asyncio.Protocol):
    """One call after the other on one connection, by counting bytes."""

    def __init__(self) -> None:
        self.left = 0
        self.waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left == 0 and self.waiter is not None:
            self.waiter.set_result(None)

    async def call(self) -> None:
        self.left = len(ANSWER)
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(
            b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(QUESTION) + QUESTION
        )
        await self.waiter


async def raw_rate(port: int, concurrency: int, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    idle = [(await loop.create_connection(Raw, "127.0.0.1", port))[1] for _ in range(concurrency)]

    async def call() -> None:
        connection = idle.pop()
        await connection.call()
        idle.append(connection)

    result = await rate(call, concurrency, seconds)
    for connection in idle:
        connection.transport.abort()
    return result


async def engine_rates(engine: Engine, port: int, concurrency: int, seconds: float) -> tuple[float, float]:
    headers = (
        (b"content-type", b"application/json"),
        (b"accept", b"application/json"),
        (b"authorization", b"Bearer 0123456789abcdef"),
        (b"x-request-id", b"0123456789abcdef"),
    )
    whole = UpstreamRequest("POST", f"http://127.0.0.1:{port}/v1/chat", headers, QUESTION)
    stream = UpstreamRequest("POST", f"http://127.0.0.1:{port}/stream", headers, QUESTION)

    async def call() -> None:
        answer = await read_whole(await engine.send(whole), 1 << 20)
        assert answer.body == BODY

    async def follow() -> None:
        response = await engine.send(stream)
        size = 0
        async for piece in response:
            size += len(piece)
        await response.aclose()
        assert size == CHUNKS * len(CHUNK)

    try:
        return await rate(call, concurrency, seconds), await rate(follow, concurrency, seconds)
    finally:
        await engine.aclose()


async def compare(port: int, concurrency: int, seconds: float, only: str | None) -> None:
    raw = await raw_rate(port, concurrency, seconds)
    print(f"{'raw':8} {raw:9.0f} calls/s  1.00")
    engines: dict[str, Callable[[], Engine]] = {"http1": Http1Engine, "httpx2": Httpx2Engine}
    for name, make in engines.items():
        if only in (None, name):
            calls, streams = await engine_rates(make(), port, concurrency, seconds)
            print(f"{name:8} {calls:9.0f} calls/s  {calls / raw:.2f}   {streams * CHUNKS:9.0f} chunks/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--only", choices=["http1", "httpx2"])
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    mock = multiprocessing.Process(target=serve, args=(listener, cores[-1]), daemon=True)
    mock.start()
    os.sched_setaffinity(0, {cores[0]})
    try:
        uvloop.run(compare(listener.getsockname()[1], arguments.concurrency, arguments.seconds, arguments.only))
    finally:
        mock.terminate()
        mock.join()


if __name__ == "__main__":
    main()

"""Any bytes, cut anywhere: the same answer, or an UpstreamError. Never another exception, never an exchange without end.

The connection is fed directly, without a socket, so that thousands of streams take a second: only the transport is a
stand-in.
"""

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kit.hostile import answer, chunked

from xrouter.config.settings import Timeouts
from xrouter.errors import UpstreamError
from xrouter.upstream.base import Limits
from xrouter.upstream.connection import Connection
from xrouter.upstream.pool import Pool
from xrouter.upstream.target import Origin


class Wire(asyncio.Transport):
    """Where a connection writes to; closing reports the loss at once."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.closed = False
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None


class Got(NamedTuple):
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    error: type[BaseException] | None
    kept: bool


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def feed(loop: asyncio.AbstractEventLoop, pieces: Iterable[bytes], eof: bool) -> Got:
    """One exchange that receives `pieces`, then the connection's end if `eof`."""
    pool = Pool(30)
    connection = Connection(pool, loop, Origin("http", "h", 80), Timeouts(), Limits())
    wire = Wire(connection)
    connection.connection_made(wire)
    exchange = connection.start(b"head", b"", loop.time() + 600, False)
    for piece in pieces:
        if wire.closed:
            break
        connection.data_received(piece)
    if eof and not wire.closed:
        connection.eof_received()
    kept = not wire.closed and pool.stats().idle == 1
    # What the readers see, without a loop that runs: neither may have to wait once the connection has ended.
    body, error = b"", None
    try:
        run(exchange.head())
        while True:
            body += run(anext(exchange))
    except StopAsyncIteration:
        pass
    except Exception as failure:
        error = type(failure)
    connection.abort()
    return Got(exchange.status, exchange.headers, body, error, kept)


def run(awaitable: Any) -> Any:
    """The result of something that must not suspend."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as done:
        return done.value
    steps.close()
    raise AssertionError("an exchange waits although its connection has ended")


ANSWERS = [
    answer(b'{"a": 1}', "content-type: application/json"),
    chunked(b"data: 1\n\n", b"data: [DONE]\n\n"),
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;e=1\r\nhello\r\n0\r\nx-t: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"after"),
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    answer(b"abc") + answer(b"surplus"),
    answer(b"abc", "connection: close") + b"x",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
    b"HTTP/1.1 200 OK\nx: y\n\nbare",
    b"<html>502 Bad Gateway</html>",
]


@pytest.mark.parametrize("data", ANSWERS)
def test_cut_at_every_byte(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    whole = feed(loop, [data], True)
    assert whole.error is None or issubclass(whole.error, UpstreamError)
    for place in range(1, len(data)):
        cut = feed(loop, [data[:place], data[place:]], True)
        assert cut[:4] == whole[:4], place
    assert feed(loop, [data[i : i + 1] for i in range(len(data))], True)[:4] == whole[:4]


@pytest.mark.parametrize("data", ANSWERS)
def test_f03_end_at_every_byte(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    """Cut off at any offset: what came is handed over, and then an error or the regular end, never silence."""
    whole = feed(loop, [data], True)
    for length in range(len(data)):
        got = feed(loop, [data[:length]] if length else [], True)
        assert whole.body.startswith(got.body)
        if got.error is None:
            assert got.status
            assert got.body == whole.body or b"until the end" in data  # the one that ends with its connection
        else:
            assert issubclass(got.error, UpstreamError)
        assert not got.kept or got.error is None


@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 200), max_size=12))
def test_cut_anywhere(loop: asyncio.AbstractEventLoop, data: bytes, places: list[int]) -> None:
    cuts = sorted({0, len(data), *(place % len(data) for place in places)})
    pieces = [data[start:end] for start, end in itertools.pairwise(cuts)]
    assert feed(loop, pieces, True)[:4] == feed(loop, [data], True)[:4]


FRAGMENTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 X\r\n",
    b"HTTP/1.1 101 X\r\n",
    b"HTTP/2 200\r\n",
    b"content-length: 5\r\n",
    b"content-length: 0\r\n",
    b"transfer-encoding: chunked\r\n",
    b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"content-encoding: gzip\r\n",
    b"trailer: x\r\n",
    b"\r\n",
    b"\n",
    b" ",
    b"\0",
    b"hello",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"x: y\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@settings(max_examples=200)
@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=20)), max_size=20), st.booleans())
@example([b"HTTP/1.1 200 OK\r\n", b"content-length: 5\r\n", b"\r\n", b"hello", b"HTTP/1.1 200 OK\r\n"], False)
def test_f07_garbage(loop: asyncio.AbstractEventLoop, pieces: list[bytes], begins_well: bool) -> None:
    """Nothing but UpstreamErrors and whole answers comes of it. Fails if the parser's own errors are let through."""
    data = [piece for piece in ([b"HTTP/1.1 200 OK\r\n", *pieces] if begins_well else pieces) if piece]
    got = feed(loop, data, True)
    assert got.error is None or issubclass(got.error, UpstreamError)
    joined = feed(loop, [b"".join(data)] if data else [], True)
    assert (got.status, got.headers, got.body) == (joined.status, joined.headers, joined.body)

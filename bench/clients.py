"""Clients for what wrk cannot do: a steady rate whatever the server does, first bytes, open silent streams, aborts.

A rate is open-loop: a request is due at its time, and its latency counts from then, so that a server which stalls does not
hide its stall by being asked less (coordinated omission).
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Answers:
    """Seconds to the first byte and to the end of each good answer, by its number; how many of each status."""

    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lost: int = 0  # connections that ended, or answers that did not come in time
    seconds: float = 0.0  # while requests were sent
    good_meanwhile: int = 0  # answers of 200 that came in these seconds; later ones are no throughput under load

    @property
    def errors(self) -> int:
        return self.lost + sum(number for status, number in self.statuses.items() if status != 200)

    @property
    def good_per_s(self) -> float:
        return self.good_meanwhile / self.seconds

    def ms(self, q: float, *, first: bool = False) -> float:
        return quantile(self.first_s if first else self.whole_s, q) * 1000


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] if ordered else float("nan")


class Connection(asyncio.Protocol):
    """One kept-alive connection, one request at a time. `ended` tells whether it may be used again."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.ended: asyncio.Future[bool] | None = None
        self.buffer = bytearray()
        self.left: int | None = None  # bytes of a declared answer that are still to come; None: chunked
        self.status = 0
        self.first_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[bool]":
        self.buffer.clear()
        self.status = 0
        self.ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return self.ended

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.buffer += data
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.first_at = time.perf_counter()
            self.status = int(self.buffer[9:12])
            length = _LENGTH.search(self.buffer, 0, end)
            self.left = int(length[1]) if length else None
            data = bytes(self.buffer[end + 4 :])
            self.buffer.clear()
        if self.left is not None:
            self.left -= len(data)
            done = self.left <= 0
        else:
            self.buffer += data[-5:]
            del self.buffer[:-5]
            done = self.buffer.endswith(b"0\r\n\r\n")
        if done and self.ended is not None and not self.ended.done():
            self.ended.set_result(True)

    def connection_lost(self, error: Exception | None) -> None:
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(False)


class Client:
    """Requests of one key to one address, on as many connections as are needed at a time."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float = 30.0) -> None:
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)
        self.head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.timeout_s = timeout_s
        self.answers = Answers()
        self.idle: list[Connection] = []

    def request(self, body: str, path: str = "/v1/chat/completions") -> bytes:
        size = len(body.encode())
        return (
            f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n{self.head}"
            f"Content-Length: {size}\r\n\r\n{body}"
        ).encode()

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: Connection(self.answers), self.host, self.port)
        return protocol

    async def one(self, request: bytes, due: float) -> None:
        """One request whose answer was wanted from `due` (perf_counter) on."""
        answers = self.answers
        connection = self.idle.pop() if self.idle else None
        while connection is not None and connection.transport.is_closing():
            connection = self.idle.pop() if self.idle else None
        try:
            connection = connection or await self.connect()
            async with asyncio.timeout(self.timeout_s):
                reusable = await connection.ask(request)
        except (OSError, TimeoutError):
            answers.lost += 1
            if connection is not None:
                connection.transport.close()
            return
        if not reusable:
            answers.lost += 1
            return
        answers.statuses[connection.status] = answers.statuses.get(connection.status, 0) + 1
        if connection.status == 200:
            answers.first_s.append(connection.first_at - due)
            answers.whole_s.append(time.perf_counter() - due)
        self.idle.append(connection)

    async def steady(self, body: str, per_s: float, seconds: float, path: str = "/v1/chat/completions") -> Answers:
        """Requests at a steady rate, each due at its time."""
        request = self.request(body, path)
        tasks: set[asyncio.Task[None]] = set()
        start = time.perf_counter()
        for number in range(int(per_s * seconds)):
            due = start + number / per_s
            if time.perf_counter() > start + seconds:
                break  # this client cannot send as fast: what it did send, it tells
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif number % 64 == 0:
                await asyncio.sleep(0)  # late: let answers in all the same
            task = asyncio.create_task(self.one(request, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        self.answers.seconds = time.perf_counter() - start
        self.answers.good_meanwhile = self.answers.statuses.get(200, 0)
        while tasks:
            await asyncio.wait(tasks)
        self.close()
        return self.answers

    def close(self) -> None:
        for connection in self.idle:
            connection.transport.close()
        self.idle.clear()


@contextlib.asynccontextmanager
async def open_streams(client: Client, body: str, number: int):  # type: ignore[no-untyped-def]
    """`number` streams that have begun and are silent; they end when the block does."""
    request = client.request(body)
    opened: list[Connection] = []

    async def one() -> None:
        connection = await client.connect()
        opened.append(connection)
        connection.ask(request)
        while not connection.status:
            await asyncio.sleep(0.05)
            assert not connection.transport.is_closing(), "a stream was refused"
        assert connection.status == 200, connection.status

    try:
        for begin in range(0, number, 100):
            await asyncio.gather(*(one() for _ in range(min(100, number - begin))))
        yield
    finally:
        for connection in opened:
            connection.transport.abort()  # type: ignore[attr-defined]

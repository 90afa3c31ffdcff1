"""The load of bench/fleet.py: open streams and a steady rate of whole requests, each ending in one word.

Connections are kept while the gateway keeps them (`Connection: close` is heeded), so that one which breaks under a request
is counted and not repaired. A word is an answer's status, or `stream <status>`; or `refused` (no connection), `lost` (no
whole answer), `cut` (a stream without its end), `error event`.
"""

import asyncio
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from clients import Answers, Client, Connection
from measures import PLAIN, chat

CHUNKS = 10
_GENERATION = re.compile(rb"x-generation-id: *([\w-]+)", re.IGNORECASE)
_WELL = {"200", "stream 200"}


class Watched(Connection):
    """Notes of an answer what tells how it ended."""

    def ask(self, request: bytes) -> "asyncio.Future[bool]":
        self.done = self.error = False
        self.generation = b""
        return super().ask(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.port: int = transport.get_extra_info("sockname")[1]
        self.kept = True

    def data_received(self, data: bytes) -> None:
        self.done = self.done or b"data: [DONE]" in data
        self.error = self.error or b'"finish_reason":"error"' in data
        if not self.status:
            self.kept = self.kept and b"\r\nconnection: close" not in data.lower()
            if found := _GENERATION.search(data):
                self.generation = found[1]
        super().data_received(data)


@dataclass(slots=True)
class Ended:
    at: float  # seconds since the load began
    word: str
    port: int


@dataclass(slots=True)
class Told:
    """What all clients were told. `finished`: generations whose last byte came; `streamed`: those of streams."""

    words: Counter[str] = field(default_factory=Counter)
    bad: list[Ended] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    streamed: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)  # of each good whole answer, from when it was due


class Load:
    """`async with` it: `streams` open streams and `per_s` requests until the block ends, which then waits for their ends."""

    def __init__(self, client: Client, streams: int, per_s: float, pause_ms: int) -> None:
        self.told = Told()
        self._client = client
        self._whole = client.request(PLAIN)
        wishes = f"[[chunks={CHUNKS}]][[separate]][[pause={pause_ms}]]"
        self._stream = client.request(chat(wishes, stream=True))
        self._streams, self._per_s = streams, per_s
        self.opening_s = min(10.0, pause_ms / 1000 * CHUNKS)  # the streams begin within that, not all at once
        self._idle: list[Watched] = []
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._began = 0.0

    async def __aenter__(self) -> "Load":
        self._began = time.perf_counter()
        for number in range(self._streams):
            self._start(self._keep_streaming(number / self._streams * self.opening_s))
        self._start(self._steady())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stopped = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        for connection in self._idle:
            connection.transport.close()

    @property
    def now(self) -> float:
        return time.perf_counter() - self._began

    def _start(self, work: "asyncio.coroutines.CoroutineType[object, object, None]") -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_streaming(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while not self._stopped:
            word = await self._one(self._stream, stream=True)
            if word not in _WELL:
                await asyncio.sleep(0.2)

    async def _steady(self) -> None:
        number = 0
        while not self._stopped:
            due = self._began + number / self._per_s
            number += 1
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self._start(self._whole_one(due))

    async def _whole_one(self, due: float) -> None:
        if await self._one(self._whole, stream=False) == "200":
            self.told.seconds.append(time.perf_counter() - due)

    async def _one(self, request: bytes, *, stream: bool) -> str:
        connection: Watched | None = None
        while connection is None and self._idle:
            connection = self._idle.pop()
            if connection.transport.is_closing():
                connection = None
        try:
            connection = connection or await self._connect()
        except OSError:
            return self._note("refused", 0, b"")
        whole = await connection.ask(request)
        if whole and connection.kept:
            self._idle.append(connection)
        word = str(connection.status) if not stream else f"stream {connection.status}"
        if not connection.status or (not whole and not stream):
            word = "lost"
        elif connection.error:
            word = "error event"
        elif stream and connection.status == 200 and not connection.done:
            word = "cut"
        return self._note(word, connection.port, connection.generation, streamed=stream)

    async def _connect(self) -> Watched:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Watched(Answers()), self._client.host, self._client.port)
        return made

    def _note(self, word: str, port: int, generation: bytes, *, streamed: bool = False) -> str:
        told = self.told
        told.words[word] += 1
        if word not in _WELL:
            told.bad.append(Ended(self.now, word, port))
        else:
            (told.streamed if streamed else told.finished).add(generation.decode())
        return word


def described(told: Told) -> str:
    return json.dumps(dict(sorted(told.words.items())))

"""An upstream that does whatever its script says, byte by byte, and knows what became of every connection."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from xrouter.wire import encode_json

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's end of one connection. `index` counts connections from 0."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, index: int) -> None:
        self.index = index
        self.requests: list[bytes] = []
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next request whole: its head, and as much body as its Content-Length says."""
        head = await self.head()
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                head += await self._reader.readexactly(int(value))
        self.requests.append(head)
        return head

    async def head(self) -> bytes:
        """The next request's head only; its body stays in the socket."""
        return await self._reader.readuntil(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        """Raises ConnectionResetError once the client has gone."""
        if self._writer.transport.is_closing():
            raise ConnectionResetError
        self._writer.write(data)

    async def drip(self, data: bytes, size: int = 1) -> None:
        """In pieces of `size` bytes, each a segment of its own, as fast as the loop turns."""
        for start in range(0, len(data), size):
            self.send(data[start : start + size])
            await self._writer.drain()
            await asyncio.sleep(0)

    async def drain(self) -> None:
        await self._writer.drain()

    async def left(self) -> None:
        """Until the client has closed its end."""
        try:
            while await self._reader.read(65536):
                pass
        except OSError:
            return  # a reset is a way of leaving too

    def stop_reading(self) -> None:
        """Let the client's bytes pile up in the kernel."""
        self._writer.transport.pause_reading()

    def half_close(self) -> None:
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Close with RST: what a crashed process or a firewall looks like."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Hostile:
    """A server on a free port of loopback: `script` runs once for each connection, which closes when it returns.

    A script may fail with the connection it is serving; any other error of it is raised at the end of the block.
    """

    def __init__(
        self, script: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.script = script
        self.peers: list[Peer] = []
        self.port = port
        self._tls = tls
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}/v1/chat"

    @property
    def open(self) -> int:
        """Connections that neither end has closed."""
        return len(self._tasks)

    async def all_closed(self) -> None:
        """Until no connection is open: every script that waits with `peer.left()` has seen the client go."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, self.port, ssl=self._tls, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await self._server.wait_closed()
        if self._failures and error is None:
            raise self._failures[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, len(self.peers))
        self.peers.append(peer)
        task = asyncio.create_task(self._serve(peer, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: Peer, writer: asyncio.StreamWriter) -> None:
        try:
            await self.script(peer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # the client went away in the middle, which many tests are about
        except Exception as error:
            self._failures.append(error)
            writer.transport.abort()
        else:
            writer.close()


def answering(*answers: bytes) -> Script:
    """On each connection: the first answer to the first request and so on, the last one again and again."""

    async def script(peer: Peer) -> None:
        for position in range(1 << 30):
            await peer.request()
            peer.send(answers[min(position, len(answers) - 1)])
            await peer.drain()

    return script


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A well-formed answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def chat_answer(content: str = "yes", *, prompt_tokens: int = 10, completion_tokens: int = 3) -> bytes:
    """OpenAI's whole answer of a chat."""
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    body = {"id": "u", "model": "m", "usage": usage, "choices": [choice]}
    return answer(encode_json(body), "content-type: application/json")


def chunked(*pieces: bytes) -> bytes:
    """A well-formed chunked answer."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"

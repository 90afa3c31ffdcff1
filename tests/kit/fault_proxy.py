"""A TCP proxy that breaks what it carries. Faults can be switched while connections are open."""

import asyncio
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the bytes on their way from the server to the client."""

    latency_s: float = 0.0  # before each piece
    drip_bytes: int = 0  # the most bytes in one piece; 0: as they come
    cut_after: int | None = None  # bytes of a connection, then `cut`
    cut: str = "close"  # close | reset | half_close | stall
    flip_at: int | None = None  # the byte of a connection whose lowest bit is turned
    black_hole: bool = False  # nothing passes in either direction, connections are accepted


class FaultProxy:
    """`async with FaultProxy(port) as proxy:` connects to `proxy.port`, and sets `proxy.fault` whenever it likes."""

    def __init__(self, upstream_port: int, fault: Fault | None = None) -> None:
        self.fault = fault or Fault()
        self.port = 0
        self.connections = 0
        self._upstream_port = upstream_port
        self._tasks: set[asyncio.Task[None]] = set()
        self._healed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat"

    def set(self, fault: Fault) -> None:
        """Another fault from now on, for open connections too."""
        self.fault = fault
        if not fault.black_hole:
            self._healed.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
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

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        writers = [to_client]
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            writers.append(to_server)
            up = asyncio.create_task(self._upwards(client, to_server))
            try:
                await self._downwards(server, to_client)
            finally:
                up.cancel()
                await asyncio.wait([up])
        except OSError:
            return  # either end is gone: closing both below is all there is to do
        finally:
            for writer in writers:
                writer.transport.abort()

    async def _passable(self) -> None:
        while self.fault.black_hole:
            self._healed.clear()
            await self._healed.wait()

    async def _upwards(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await client.read(65536):
            await self._passable()
            to_server.write(data)
            await to_server.drain()
        to_server.transport.abort()

    async def _downwards(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await server.read(self.fault.drip_bytes or 65536):
            await self._passable()
            fault = self.fault
            if fault.latency_s:
                await asyncio.sleep(fault.latency_s)
            if fault.flip_at is not None and passed <= fault.flip_at < passed + len(data):
                place = fault.flip_at - passed
                data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            if fault.cut_after is not None and passed + len(data) >= fault.cut_after:
                to_client.write(data[: max(0, fault.cut_after - passed)])
                await to_client.drain()
                await self._cut(fault, to_client)
                return
            passed += len(data)
            to_client.write(data)
            await to_client.drain()
            await asyncio.sleep(0)
        to_client.close()
        await to_client.wait_closed()

    async def _cut(self, fault: Fault, to_client: asyncio.StreamWriter) -> None:
        match fault.cut:
            case "reset":
                sock: socket.socket = to_client.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                to_client.transport.abort()
            case "half_close":
                to_client.write_eof()
                await asyncio.Event().wait()
            case "stall":
                await asyncio.Event().wait()
            case _:
                to_client.close()
                await to_client.wait_closed()

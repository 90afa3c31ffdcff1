"""An HTTP/1.1 client that sends whatever bytes it is told to, and reads answers more strictly than browsers do."""

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec


class NotAnAnswer(AssertionError):
    """What the server has written is not one HTTP/1.1 answer after another."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The only value of `name`, or None."""
        values = [value for key, value in self.headers if key == name]
        if len(values) > 1:
            raise NotAnAnswer(f"{name} is there {len(values)} times")
        return values[0] if values else None

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class RawClient:
    """One connection. Everything waits at most `timeout_s`, and fails then."""

    def __init__(self, address: tuple[str, int], *, timeout_s: float = 5.0, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self._buffer = b""
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_in_pieces(self, pieces: Iterable[bytes]) -> bool:
        """Whether the server took all of them; it may close before."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes as they come; empty at the end."""
        if self._buffer:
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data
        return self.socket.recv(size)

    def for_now(self, pause_s: float) -> bytes:
        """All bytes until none has come for `pause_s`."""
        timeout_s = self.socket.gettimeout()
        self.socket.settimeout(pause_s)
        try:
            return self.rest()
        except TimeoutError:
            data, self._buffer = self._buffer, b""
            return data
        finally:
            self.socket.settimeout(timeout_s)

    def rest(self) -> bytes:
        """All bytes until the server ends or resets the connection."""
        while self._more():
            pass
        data, self._buffer = self._buffer, b""
        return data

    def ends(self) -> bool:
        """Whether the server ends the connection without another byte."""
        return self.rest() == b""

    def head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """Status and headers of the next answer, interim ones included."""
        head = self._until(b"\r\n\r\n")
        status_line, *lines = head[:-4].split(b"\r\n")
        version, _, rest = status_line.partition(b" ")
        if version != b"HTTP/1.1" or not rest[:3].isdigit() or rest[3:4] != b" ":
            raise NotAnAnswer(f"status line {status_line!r}")
        headers = []
        for line in lines:
            name, colon, value = line.partition(b": ")
            if not colon or not name or b"\n" in line or b"\r" in line:
                raise NotAnAnswer(f"header line {line!r}")
            headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))
        return int(rest[:3]), tuple(headers)

    def answer(self, *, method: str = "GET") -> Answer:
        """The next answer, whole."""
        status, headers = self.head()
        return Answer(status, headers, self._body(Answer(status, headers, b""), method))

    def answers(self, *, method: str = "GET") -> list[Answer]:
        """All answers until the connection ends, which must be at an answer's end."""
        found = []
        while self._buffer or self._more():
            found.append(self.answer(method=method))
        return found

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty for the last."""
        size = int(self._until(b"\r\n")[:-2], 16)
        data = self._exactly(size)
        if self._exactly(2) != b"\r\n":
            raise NotAnAnswer("a chunk without its end")
        return data

    def _body(self, head: Answer, method: str) -> bytes:
        if method == "HEAD" or head.status in (204, 304) or head.status < 200:
            return b""
        length, coding = head.header("content-length"), head.header("transfer-encoding")
        if coding is not None:
            if coding != "chunked" or length is not None:
                raise NotAnAnswer("two framings")
            return b"".join(iter(self.chunk, b""))
        if length is not None:
            return self._exactly(int(length))
        if head.header("connection") != "close":
            raise NotAnAnswer("a body without an end")
        return self.rest()

    def _more(self) -> bool:
        if self._ended:
            return False
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        self._ended = not data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._more():
                raise NotAnAnswer(f"the connection ended after {self._buffer!r}")
        end = self._buffer.index(mark) + len(mark)
        data, self._buffer = self._buffer[:end], self._buffer[end:]
        return data

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise NotAnAnswer(f"the connection ended {size - len(self._buffer)} bytes too early")
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

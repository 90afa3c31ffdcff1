"""A raw upstream for measurements: it only answers, as OpenAI, GigaChat or YandexGPT, so that it is never the limit.

    python bench/upstream.py PORT

The path chooses the dialect: `/giga/…` (its sign-in too), `/yandex/…`, else OpenAI's. A body says what it wants:

    [[chunks=N]]    of a stream (default 50)
    [[separate]]    one write for each chunk, in turns with the other streams: as a model sends them. Else all at once
    [[bytes=N]]     of text in a whole answer, or in each chunk
    [[pause=MS]]    before the answer, and between separate chunks
    [[idle]]        the first chunk, and then silence
"""

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from functools import lru_cache

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_WISH = re.compile(rb"\[\[(\w+)(?:=(\d+))?\]\]")
_STREAM = re.compile(rb'"stream": ?true')
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_TEXT = b"The capital of Peru is Lima. It lies on the Pacific coast."


def openai_chunks(number: int, text: bytes) -> Iterator[bytes]:
    start = (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"bench","choices":['
    )
    for _ in range(number):
        yield start + b'{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n' % text
    usage = b'"usage":{"prompt_tokens":12,"completion_tokens":%d,"total_tokens":%d}}' % (number, 12 + number)
    last = start + b'{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    yield last + start + b"]," + usage + b"\n\ndata: [DONE]\n\n"


def giga_chunks(number: int, text: bytes) -> Iterator[bytes]:
    end = b'"created":1790000000,"model":"GigaChat-2-Max:2.0.28.2","object":"chat.completion"'
    for _ in range(number):
        yield b'data: {"choices":[{"delta":{"content":"%b","role":"assistant"},"index":0}],%b}\n\n' % (text, end)
    usage = b'"usage":{"prompt_tokens":12,"completion_tokens":%d,"total_tokens":%d,"precached_prompt_tokens":0}' % (
        number,
        12 + number,
    )
    last = b'data: {"choices":[{"delta":{"content":""},"index":0,"finish_reason":"stop"}],%b,%b}\n\n' % (end, usage)
    yield last + b"data: [DONE]\n\n"


def yandex_chunks(number: int, text: bytes) -> Iterator[bytes]:
    """Each line repeats the text from its start, as the native API does."""
    usage = b'"usage":{"inputTextTokens":"12","completionTokens":"%d","totalTokens":"%d"}' % (number, 12 + number)
    for count in range(1, number + 1):
        status = b"FINAL" if count == number else b"PARTIAL"
        message = b'{"role":"assistant","text":"%b"}' % (text * count)
        result = (
            b'{"alternatives":[{"message":%b,"status":"ALTERNATIVE_STATUS_%b"}],%b,"modelVersion":"09.02.2025"}'
            % (
                message,
                status,
                usage,
            )
        )
        yield b'{"result":%b}\n' % result


def openai_whole(text: bytes) -> bytes:
    return (
        b'{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"bench","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":12,"completion_tokens":14,"total_tokens":26}}' % text
    )


def giga_whole(text: bytes) -> bytes:
    return (
        b'{"choices":[{"message":{"content":"%b","role":"assistant"},"index":0,"finish_reason":"stop"}],"created":1790000000,'
        b'"model":"GigaChat-2-Max:2.0.28.2","object":"chat.completion",'
        b'"usage":{"prompt_tokens":12,"completion_tokens":14,"total_tokens":26,"precached_prompt_tokens":0}}' % text
    )


def yandex_whole(text: bytes) -> bytes:
    return (
        b'{"result":{"alternatives":[{"message":{"role":"assistant","text":"%b"},"status":"ALTERNATIVE_STATUS_FINAL"}],'
        b'"usage":{"inputTextTokens":"12","completionTokens":"14","totalTokens":"26"},"modelVersion":"09.02.2025"}}'
        % text
    )


_DIALECTS = {
    b"openai": (openai_whole, openai_chunks, b"text/event-stream"),
    b"giga": (giga_whole, giga_chunks, b"text/event-stream"),
    b"yandex": (yandex_whole, yandex_chunks, b"application/json"),
}


@lru_cache(maxsize=64)
def whole(dialect: bytes, size: int) -> bytes:
    body = _DIALECTS[dialect][0](b"x" * size if size else _TEXT)
    return _ANSWER % (len(body), body)


@lru_cache(maxsize=64)
def streamed(dialect: bytes, number: int, size: int) -> tuple[bytes, ...]:
    """The answer's writes: its head, each chunk, its end."""
    _, chunks, kind = _DIALECTS[dialect]
    framed = [b"%x\r\n%b\r\n" % (len(data), data) for data in chunks(number, b"x" * size or b"word ")]
    return (_STREAM_HEAD % kind + framed[0], *framed[1:], b"0\r\n\r\n")


class Upstream(asyncio.Protocol):
    """One connection; requests one after another, each small enough to be looked for as a whole."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end])
            length = _LENGTH.search(head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < size:
                return
            body = bytes(self.buffer[end + 4 : size])
            del self.buffer[:size]
            self.answer(head.split(b" ", 2)[1], body)

    def answer(self, path: bytes, body: bytes) -> None:
        write = self.transport.write  # type: ignore[attr-defined]
        if path.endswith(b"/oauth"):
            token = b'{"access_token":"bench","expires_at":%d}' % ((time.time() + 1800) * 1000)
            write(_ANSWER % (len(token), token))
            return
        dialect = path.split(b"/", 2)[1]
        if dialect not in _DIALECTS:
            dialect = b"openai"
        wishes = {name: int(value or 0) for name, value in _WISH.findall(body[-4096:])}
        size, pause_s = wishes.get(b"bytes", 0), wishes.get(b"pause", 0) / 1000
        if not _STREAM.search(body):
            pieces: tuple[bytes, ...] = (whole(dialect, size),)
        else:
            pieces = streamed(dialect, wishes.get(b"chunks", 50), size)
        if b"idle" in wishes:
            write(pieces[0])
        elif b"separate" in wishes:
            self.write_separately(iter(pieces), pause_s)
        elif pause_s:
            self.loop.call_later(pause_s, self.write_separately, iter(pieces), 0)
        else:
            write(b"".join(pieces))

    def write_separately(self, pieces: Iterator[bytes], pause_s: float) -> None:
        piece = next(pieces, None)
        if piece is None or self.transport.is_closing():
            return
        self.transport.write(piece)  # type: ignore[attr-defined]
        self.loop.call_later(pause_s, self.write_separately, pieces, pause_s)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

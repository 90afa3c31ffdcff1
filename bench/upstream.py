"""A raw upstream for measurements: an OpenAI-compatible server that does nothing but answer, so that it is never the limit.

    python bench/upstream.py PORT

Per request: a small chat completion; with `"stream":true` in the body 50 chunks at once; with `[[chunks=N]]` in it N chunks;
with `[[idle]]` the first chunk, and then silence for ten minutes.
"""

import asyncio
import re
import sys

import uvloop

_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"bench","choices":[],'
    b'"usage":{"prompt_tokens":12,"completion_tokens":50,"total_tokens":62}}\n\ndata: [DONE]\n\n'
)
_WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"bench","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"The capital of Peru is Lima. It lies on the Pacific coast."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":12,"completion_tokens":14,"total_tokens":26}}'
)
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_WHOLE), _WHOLE)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CHUNKS = re.compile(rb"\[\[chunks=(\d+)\]\]")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """One connection; requests one after another, each small enough to be looked for as a whole."""

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = _LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self.buffer = rest[size:]
            self._answer(rest[:size])

    def _answer(self, body: bytes) -> None:
        write = self.transport.write  # type: ignore[attr-defined]
        if b'"stream":true' not in body and b'"stream": true' not in body:
            write(_ANSWER)
        elif b"[[idle]]" in body:
            write(_STREAM_HEAD + _chunked(_CHUNK))
        else:
            wanted = _CHUNKS.search(body)
            write(_STREAM_HEAD)
            for _ in range(int(wanted[1]) if wanted else 50):
                write(_chunked(_CHUNK))
            write(_chunked(_LAST) + b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

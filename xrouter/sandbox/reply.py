"""Answers of the emulators before they are written: one body, or the frames of a stream."""

import http
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

Header = tuple[str, str]

JSON = "application/json"
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `frames`: the pieces of a body; a streamed one is written piece by piece, without a length."""

    status: int
    frames: Sequence[bytes]
    content_type: str = JSON
    streamed: bool = False
    headers: tuple[Header, ...] = ()

    def with_headers(self, *headers: Header) -> "Reply":
        return replace(self, headers=self.headers + headers)


class Refusal(Exception):
    """Raised by a handler to answer with an error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def json_reply(value: object, status: int = 200) -> Reply:
    return Reply(status, (msgspec.json.encode(value),))


def stream_reply(frames: Sequence[bytes], content_type: str = EVENT_STREAM) -> Reply:
    return Reply(200, frames, content_type, streamed=True)


def sse(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


SSE_DONE = b"data: [DONE]\n\n"


def html_page(status: int, server: str = "SynGX") -> Reply:
    """The page that a front server answers with where there is no API behind a path, or none alive."""
    title = f"{status} {http.HTTPStatus(status).phrase}" if status in set(http.HTTPStatus) else str(status)
    page = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>{server}</center>\r\n</body>\r\n</html>\r\n"
    )
    return Reply(status, (page.encode(),), "text/html")

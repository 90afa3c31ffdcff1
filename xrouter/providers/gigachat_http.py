"""GigaChat's requests as bytes: addresses, headers, JSON and multipart bodies. Signing is added by the caller."""

import re
from hashlib import sha1
from typing import Any, Final

from xrouter import __version__
from xrouter.upstream.base import Headers, UpstreamRequest
from xrouter.wire import encode_json

USER_AGENT: Final = (b"user-agent", f"xrouter/{__version__}".encode())
"""Never left out: without it the API answers 403 although the token is good (section 1)."""

_JSON: Final = ((b"accept", b"application/json"), USER_AGENT)
_JSON_BODY: Final = (*_JSON, (b"content-type", b"application/json"))
_STREAM_BODY: Final = (
    (b"accept", b"text/event-stream"),
    USER_AGENT,
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
)
_SESSIONS: Final = bytes.fromhex("5f0a1c0e6a434f0b9d5c6f3b8d0c7a11")  # our own name spaces of UUIDs, chosen at random
_REQUESTS: Final = bytes.fromhex("c2a6b5d20f5e4c578f6d2b1f6a9e4d33")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class GigaChatApi:
    """The API below one base address, e.g. `https://api.giga.chat/v1`."""

    def __init__(self, base_url: str) -> None:
        self._base = base_url.rstrip("/")

    def post(self, path: str, body: Any, trace: Headers = (), *, stream: bool = False) -> UpstreamRequest:
        """`body` is sent as compact UTF-8 JSON."""
        headers = _STREAM_BODY if stream else _JSON_BODY
        return UpstreamRequest("POST", self._base + path, (*headers, *trace), encode_json(body))

    def get(self, path: str) -> UpstreamRequest:
        return UpstreamRequest("GET", self._base + path, _JSON, idempotent=True)

    def upload(self, filename: str, content_type: str, data: bytes, boundary: str, trace: Headers) -> UpstreamRequest:
        """`POST /files`, multipart with `purpose=general` (section 10). `boundary` is random."""
        body = b"".join(
            (
                f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\ngeneral\r\n'.encode(),
                f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'.encode(),
                f"Content-Type: {content_type}\r\n\r\n".encode(),
                data,
                f"\r\n--{boundary}--\r\n".encode(),
            )
        )
        kind = (b"content-type", f"multipart/form-data; boundary={boundary}".encode())
        return UpstreamRequest("POST", self._base + "/files", (*_JSON, kind, *trace), body)

    def delete_file(self, file_id: str, trace: Headers) -> UpstreamRequest:
        """`POST /files/{id}/delete`: a POST, as the API has it."""
        return UpstreamRequest("POST", f"{self._base}/files/{file_id}/delete", (*_JSON, *trace), idempotent=True)


def trace_headers(request_id: str, conversation: str) -> Headers:
    """`X-Request-ID`, which the API echoes, and `X-Session-ID`, which its prompt cache goes by (section 9).

    Both must be UUIDs. A request id that is none is turned into one; the session's is derived from `conversation`, which
    is unlike for any two clients, so that no cache is shared between them.
    """
    traced = request_id if _UUID.fullmatch(request_id) else uuid5(_REQUESTS, request_id)
    return ((b"x-request-id", traced.encode()), (b"x-session-id", uuid5(_SESSIONS, conversation).encode()))


def uuid5(namespace: bytes, name: str) -> str:
    """A UUID made from a name (RFC 9562, version 5). Made on every request: takes half the time of the library's."""
    value = int.from_bytes(sha1(namespace + name.encode(), usedforsecurity=False).digest()[:16])
    value = value & ~(0xF << 76) | 5 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

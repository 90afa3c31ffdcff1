"""What GigaChat's failures mean: section 11 of the sheet (the API) and its section 2.1 (the token service).

A provider's message reaches a client only where it explains the client's own mistake, made safe; everything else that it
says goes into `detail`, made safe as well.
"""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from xrouter.errors import ContextLengthExceeded, UpstreamAuthError, UpstreamError, UpstreamProtocolError, XRouterError
from xrouter.providers.failures import status_error
from xrouter.providers.gigachat_wire import ReadError
from xrouter.providers.retry_after import retry_after_s
from xrouter.providers.safe_text import safe_text
from xrouter.upstream.base import Headers, UpstreamAnswer, header
from xrouter.world import World

_CONTEXT_WORDS: Final = ("слишком много токенов", "too many tokens", "context length")

_TOKEN_SERVICE_CODES: Final = {
    1: "the scope is not a valid one",
    4: "the authorization key is not base64 of client id and secret",
    5: "the scope is empty",
    6: "the authorization key is wrong or was revoked",
    7: "the authorization key belongs to another scope",
}


class ErrorReader:
    """Reads the API's failures. `secrets`: what must not be shown whatever the provider echoes."""

    def __init__(self, world: World, secrets: Iterable[str] = ()) -> None:
        self._world = world
        self._secrets = frozenset(secrets)

    def answer(self, answer: UpstreamAnswer) -> XRouterError:
        """The error that an API answer other than 2xx stands for."""
        body = read_error(answer.body)
        said = self.readable((body and body.message) or "")
        request_id = header_id(answer.headers)
        detail = f"GigaChat answered {answer.status}: {said or 'no message'}; its x-request-id: {request_id or 'none'}"
        return _error(answer.status, said, body is not None, retry_after_s(answer.headers, self._world), detail)

    def inside(self, status: int, message: str) -> XRouterError:
        """The error that an error object inside a 2xx answer stands for."""
        said = self.readable(message)
        return _error(status, said, True, None, f"GigaChat answered 200, then {status}: {said or 'no message'}")

    def readable(self, text: str) -> str:
        return safe_text(text, self._secrets)


def _error(status: int, said: str, json: bool, wait_s: float | None, detail: str) -> XRouterError:
    if status in (400, 422) and json and any(words in said.lower() for words in _CONTEXT_WORDS):
        return ContextLengthExceeded(detail=detail)
    if status == 403 and said.lower() == "unauthorized":
        json = False  # a missing User-Agent or a wrong path, not a matter of rights (sections 1 and 11)
    return status_error(status, said, json=json, wait_s=wait_s, detail=detail, who="GigaChat")


def token_error(answer: UpstreamAnswer, world: World) -> UpstreamError:
    """The error that a token service's answer other than 2xx stands for. Never holds the key, in any form."""
    body = read_error(answer.body)
    if answer.status in (400, 401, 403):
        code = body.code if body else None
        cause = "no reason given" if code is None else _TOKEN_SERVICE_CODES.get(code, "no known reason")
        return UpstreamAuthError(
            retry=False,
            upstream_status=answer.status,
            detail=f"the token service answered {answer.status}, code {code}: {cause}",
        )
    detail = f"the token service answered {answer.status}"
    if answer.status == 429 or answer.status >= 500:
        return UpstreamError(
            "The upstream gives no access token at the moment",
            status=503 if answer.status in (429, 503) else 502,
            upstream_status=answer.status,
            retry_after_s=retry_after_s(answer.headers, world),
            detail=detail,
        )
    return UpstreamProtocolError(retry=False, upstream_status=answer.status, detail=detail)


def read_error(body: bytes) -> ReadError | None:
    """The body as an error object; None if it is not JSON of one."""
    try:
        return msgspec.json.decode(body, type=ReadError)
    except (ValueError, RecursionError):
        return None


def header_id(headers: Headers) -> str | None:
    """`x-request-id`, the provider's name for an answer; None if absent or no UUID, which is what it always is."""
    try:
        return str(UUID((header(headers, b"x-request-id") or b"").decode("latin-1")))
    except ValueError:
        return None

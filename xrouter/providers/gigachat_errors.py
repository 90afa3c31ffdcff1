"""What GigaChat's failures mean: section 11 of the sheet (the API) and its section 2.1 (the token service).

A provider's message reaches a client only where it explains the client's own mistake, and then without a page, without the
secrets that we know, and without anything that looks like one: GigaChat's are base64, UUIDs and JWTs, so a long run of such
characters is blotted out. Everything else that the provider says goes into `detail`, blotted out as well.
"""

import re
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from xrouter.errors import (
    BadRequest,
    ContextLengthExceeded,
    ModelNotFound,
    UpstreamAuthError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamQuotaExhausted,
    UpstreamTimeout,
    XRouterError,
)
from xrouter.providers.gigachat_wire import ReadError
from xrouter.providers.retry_after import retry_after_s
from xrouter.upstream.base import Headers, UpstreamAnswer, header
from xrouter.world import World

_MAX_MESSAGE_CHARS = 500
_SCHEME: Final = re.compile(r"\b(?:bearer|basic)\s+\S+", re.IGNORECASE)
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+/=_.%~-]{20,}")
_PAGE: Final = re.compile(r"<\s*(?:!doctype|html|head|body|center|h1|script|title)\b", re.IGNORECASE)
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
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def answer(self, answer: UpstreamAnswer) -> XRouterError:
        """The error that an API answer other than 2xx stands for."""
        body = read_error(answer.body)
        said = self.readable((body and body.message) or "")
        request_id = header_id(answer.headers)
        detail = f"GigaChat answered {answer.status}: {said or 'no message'}; its x-request-id: {request_id or 'none'}"
        return status_error(answer.status, said, body is not None, retry_after_s(answer.headers, self._world), detail)

    def inside(self, status: int, message: str) -> XRouterError:
        """The error that an error object inside a 2xx answer stands for."""
        said = self.readable(message)
        return status_error(status, said, True, None, f"GigaChat answered 200, then {status}: {said or 'no message'}")

    def readable(self, text: str) -> str:
        """A provider's text made safe to show: one line, no page, nothing like a credential, at most 500 characters."""
        if _PAGE.search(text):
            return ""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _SCHEME.sub("***", text)
        text = _LONG_RUN.sub(lambda run: "***" if _is_random(run[0]) else run[0], text)
        text = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:2000]).split())
        return text if len(text) <= _MAX_MESSAGE_CHARS else text[: _MAX_MESSAGE_CHARS - 1] + "…"


def status_error(status: int, said: str, json: bool, wait_s: float | None, detail: str) -> XRouterError:
    """The error for `status`. `said`: the provider's message, made safe; `json`: the body was the API's, not a page."""
    match status:
        case 400 | 422 if json:
            if any(words in said.lower() for words in _CONTEXT_WORDS):
                return ContextLengthExceeded(detail=detail)
            return BadRequest(f"GigaChat refused the request: {said}" if said else None, detail=detail)
        case 401:
            return UpstreamAuthError(retry=False, upstream_status=status, detail=detail)
        case 402:
            return UpstreamQuotaExhausted(upstream_status=status, detail=detail)
        case 403 if json and said.lower() != "unauthorized":
            return UpstreamError(
                "The upstream does not permit this",
                status=403,
                type="permission_denied",
                retry=False,
                upstream_status=status,
                detail=detail,
                metadata={"error_type": "permission_denied"},
            )
        case 404 if json:
            return ModelNotFound("The upstream does not know this model", detail=detail)
        case 413:
            return ContextLengthExceeded(detail=detail)
        case 429:
            return UpstreamError(
                "The upstream is at its limit of simultaneous requests",
                status=429,
                type="rate_limit_exceeded",
                upstream_status=status,
                retry_after_s=wait_s,
                detail=detail,
                metadata={"error_type": "rate_limit_exceeded"},
            )
        case 504:
            return UpstreamTimeout(upstream_status=status, retry_after_s=wait_s, detail=detail)
        case _ if status >= 500:
            return UpstreamError(
                status=503 if status == 503 else 502,
                upstream_status=status,
                retry_after_s=wait_s,
                detail=detail,
            )
    # A page with 400, 403 or 404 is the front server's: a wrong path or a missing User-Agent (sections 1 and 11).
    return UpstreamProtocolError(retry=False, upstream_status=status, detail=detail)


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


def _is_random(run: str) -> bool:
    """Whether a long run looks like no word: it has digits, or letters of both cases."""
    return any(letter.isdigit() for letter in run) or (run != run.lower() and run != run.upper())

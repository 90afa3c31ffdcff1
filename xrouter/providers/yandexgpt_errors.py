"""What Yandex's refusals mean to the client. Source: the sheet's section 14.

Three shapes and none: the native methods' `{"error": {"grpcCode", "httpCode", …}}`, the unary ones' `{"code", "message"}`,
the compatible surface's `{"error": {"message", "code", "type"}}`, and plain text, HTML or nothing from what stands in front.
Codes decide; texts, which may change, only tell apart what shares a code.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from xrouter.errors import (
    BadRequest,
    ContextLengthExceeded,
    PayloadTooLarge,
    UpstreamAuthError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamQuotaExhausted,
    UpstreamTimeout,
    XRouterError,
)
from xrouter.providers.retry_after import retry_after_s
from xrouter.providers.safe_text import safe_text, safe_type
from xrouter.secret import Secret
from xrouter.upstream.base import Headers, UpstreamAnswer, header
from xrouter.wire import decode_json
from xrouter.world import World

CONFIGURATION_ERROR = "upstream_configuration_error"
"""The type of an error that the operator's configuration of the upstream causes."""

_MESSAGE_CHARS = 300
_DETAIL_CHARS = 1000
_BODY_CHARS = 64 * 1024  # of an error body, more is never looked at

_GRPC_UNKNOWN = 2  # an HTTP status beside it says more
# google.rpc.Code → the HTTP status that stands for it in the sheet's table. OK and unknown numbers are absent.
_STATUS_OF_GRPC = {
    1: 499,  # CANCELLED
    _GRPC_UNKNOWN: 500,
    3: 400,  # INVALID_ARGUMENT
    4: 504,  # DEADLINE_EXCEEDED
    5: 404,  # NOT_FOUND
    6: 400,  # ALREADY_EXISTS
    7: 403,  # PERMISSION_DENIED
    8: 429,  # RESOURCE_EXHAUSTED
    9: 400,  # FAILED_PRECONDITION
    10: 503,  # ABORTED
    11: 400,  # OUT_OF_RANGE
    12: 501,  # UNIMPLEMENTED
    13: 500,  # INTERNAL
    14: 503,  # UNAVAILABLE
    15: 500,  # DATA_LOSS
    16: 401,  # UNAUTHENTICATED
}
# OpenAI's words for it, as the compatible surface may use them.
_STATUS_OF_WORD = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_denied": 403,
    "permission_error": 403,
    "insufficient_quota": 402,
    "model_not_found": 404,
    "not_found_error": 404,
    "not_found": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
}
_TOO_LONG = re.compile(r"number of input tokens must be|text length is|context[_ ]length|maximum context", re.I)
_FOLDER_MISMATCH = re.compile(r"folder id\b.*\bdoes not match", re.I | re.S)
_BILLING = re.compile(r"billing|payment|balance|insufficient_quota", re.I)
_MODEL_URI = re.compile(r"model[ _]?uri", re.I)
_CONCURRENCY = re.compile(r"gauge|sessionscount", re.I)

_HIDDEN = (
    # Keys and tokens by their openings, then any long word with a digit in it: ids, folders, keys of tomorrow's form.
    re.compile(r"\b(?:AQVN|t1\.|y[0-3]_|ya29\.|Bearer\s|Api-Key\s)\S+"),
    re.compile(r"(?<=://)[^/\s'\"]+"),  # the folder in a model's URI
    re.compile(r"\b(?=\w*\d)\w{16,}"),
)
_ANSWER_NAME = re.compile(rb"[0-9a-fA-F:-]{8,100}")  # UUIDs and trace ids; nothing else is believed to be one


@dataclass(frozen=True, slots=True)
class Failure:
    """One refusal as read: the status that the codes stand for, and the text beside them."""

    status: int
    text: str
    grpc_code: int | None = None


def error_for(answer: UpstreamAnswer, world: World, secrets: Sequence[Secret] = ()) -> XRouterError:
    """What an answer other than 2xx means to the client."""
    failure = read_failure(answer.body, answer.status)
    return meaning(
        failure,
        answer.status,
        secrets,
        wait_s=retry_after_s(answer.headers, world),
        where=answer_name(answer.headers) or "",
    )


def error_in_body(body: Any, secrets: Sequence[Secret] = ()) -> XRouterError:
    """What an error object inside a 2xx answer means. `body` is the decoded JSON that holds it."""
    return meaning(_failure(body, 502), 200, secrets)


def read_failure(body: bytes, status: int) -> Failure:
    """The codes and the text of an error body in any of the shapes; the HTTP status where it tells nothing."""
    try:
        decoded = decode_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:_BODY_CHARS].decode("utf-8", "replace").strip()
        return Failure(status, "" if text.startswith("<") else text)
    return _failure(decoded, status)


def _failure(decoded: Any, status: int) -> Failure:
    if not isinstance(decoded, dict):
        return Failure(status, decoded if isinstance(decoded, str) else "")
    inner = decoded.get("error")
    source = inner if isinstance(inner, dict) else decoded
    nested = source.get("error")  # seen in the compatible surface's error frames: {"error": {"error": …}}
    if isinstance(nested, dict):
        source = nested
    text = next((value for value in (source.get("message"), nested, inner) if isinstance(value, str) and value), "")
    grpc_code = _number(source.get("grpcCode", source.get("grpc_code")))
    http_code = _number(source.get("httpCode", source.get("http_code")))
    code = source.get("code")
    number = _number(code)
    if number is not None and number < 100:
        grpc_code = number if grpc_code is None else grpc_code
    elif number is not None:
        http_code = number if http_code is None else http_code
    words = [word for word in (code, source.get("type")) if isinstance(word, str)]
    told = next((_STATUS_OF_WORD[word] for word in words if word in _STATUS_OF_WORD), None)
    if http_code is not None and not 400 <= http_code <= 599:
        http_code = None
    meant = http_code if grpc_code == _GRPC_UNKNOWN and http_code else _STATUS_OF_GRPC.get(grpc_code or 0) or http_code
    if text == "" and words:
        text = words[0]
    return Failure(meant or told or status, text[:_BODY_CHARS], grpc_code)


def _number(value: Any) -> int | None:
    """A code, which may be a number or digits in a string."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 5 else None


def meaning(
    failure: Failure,
    http_status: int,
    secrets: Sequence[Secret] = (),
    *,
    wait_s: float | None = None,
    where: str = "",
) -> XRouterError:
    """The table of section 14. `where`: what names this answer in Yandex's logs."""
    code = "" if failure.grpc_code is None else f" grpc={failure.grpc_code}"
    detail = f"HTTP {http_status}{code} {where} {harmless(failure.text, secrets, _DETAIL_CHARS)}".strip()
    text = failure.text
    match failure.status:
        case 400 | 422 | 502 if _TOO_LONG.search(text):  # 502: an error under status 200 that has no code we know
            return ContextLengthExceeded(detail=detail)
        case 400 if _FOLDER_MISMATCH.search(text):
            return _final(
                "The upstream's folder and its credentials do not belong together",
                500,
                CONFIGURATION_ERROR,
                http_status,
                detail,
                error_type="server",
            )
        case 400 if _MODEL_URI.search(text):
            return BadRequest("The upstream does not know this model by its configured name", detail=detail)
        case 400 | 405 | 409 | 415 | 422:
            said = harmless(text, secrets, _MESSAGE_CHARS)
            return BadRequest(f"The upstream refused the request: {said}" if said else None, detail=detail)
        case 401:
            return UpstreamAuthError(retry=False, upstream_status=http_status, detail=detail)
        case 402:
            return UpstreamQuotaExhausted(retry=False, upstream_status=http_status, detail=detail)
        case 403 if _BILLING.search(text):
            return UpstreamQuotaExhausted(
                "The gateway's account at the upstream is not paid",
                retry=False,
                upstream_status=http_status,
                detail=detail,
            )
        case 403:
            return _final("The upstream does not permit this", 403, "permission_denied", http_status, detail)
        case 404:
            return _final(
                "The upstream has no such model", 404, "model_not_found", http_status, detail, error_type="not_found"
            )
        case 408 | 499 | 504:
            return UpstreamTimeout(retry=failure.status != 499, upstream_status=http_status, detail=detail)
        case 413:
            return PayloadTooLarge("The request is too large for the upstream", detail=detail)
        case 429:
            gauge = _CONCURRENCY.search(text) is not None
            return UpstreamError(
                "The upstream is busy with as many requests as it takes at once"
                if gauge
                else "The upstream's rate limit is reached",
                status=429,
                type="rate_limit_exceeded",
                upstream_status=http_status,
                retry_after_s=wait_s,
                detail=detail,
                metadata={"error_type": "rate_limit_exceeded"},
            )
        case 501:
            return _final(
                "The upstream cannot do this",
                501,
                "not_supported",
                http_status,
                detail,
                error_type="provider_unavailable",
            )
        case 503:
            return UpstreamError(
                "The upstream is unavailable",
                status=503,
                upstream_status=http_status,
                retry_after_s=wait_s,
                detail=detail,
            )
        case status if status >= 500:
            return UpstreamError(upstream_status=http_status, retry_after_s=wait_s, detail=detail)
        case status if status >= 400:
            return BadRequest("The upstream refused the request", detail=detail)
        case _:
            return UpstreamProtocolError(upstream_status=http_status, detail=detail)


def _final(
    message: str, status: int, type: str, upstream_status: int, detail: str, *, error_type: str | None = None
) -> UpstreamError:
    """A refusal that a second try would only repeat."""
    return UpstreamError(
        message,
        status=status,
        type=type,
        retry=False,
        upstream_status=upstream_status,
        detail=detail,
        metadata={"error_type": error_type or type},
    )


def harmless(text: str, secrets: Sequence[Secret], max_chars: int) -> str:
    """`text` on one line, without markup, keys, tokens and ids. Empty if nothing readable is left."""
    if "<" in text and ">" in text:
        return ""
    for secret in secrets:
        if secret:
            text = text.replace(secret.reveal(), "…")
    text = text[: 8 * max_chars]
    for pattern in _HIDDEN:
        text = pattern.sub("…", text)
    text = safe_text(text, [secret.reveal() for secret in secrets if secret])  # parts of keys, and other encodings
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def answer_name(headers: Headers) -> str | None:
    """What names an answer in Yandex's own logs (section 2): the request's id, and the trace's behind a slash."""
    names = (header(headers, b"x-request-id"), header(headers, b"x-server-trace-id"))
    return "/".join(name.decode("ascii") for name in names if name and _ANSWER_NAME.fullmatch(name)) or None


def refuse_markup(headers: Headers) -> None:
    """Raises UpstreamProtocolError for the head of a page: something in front answered in the upstream's place."""
    content_type = header(headers, b"content-type") or b""
    if content_type.lower().startswith((b"text/html", b"application/xml", b"text/xml")):
        raise UpstreamProtocolError(detail=f"content type {safe_type(content_type)}")

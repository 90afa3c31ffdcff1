"""What an OpenAI-compatible upstream's failures mean."""

from typing import Any, Final

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
from xrouter.providers.retry_after import retry_after_s
from xrouter.providers.safe_text import safe_text
from xrouter.secret import Secret
from xrouter.upstream.base import UpstreamAnswer
from xrouter.wire import decode_json
from xrouter.world import World

_CONTEXT_CODES: Final = frozenset({"context_length_exceeded", "string_above_max_length"})


def error_from(answer: UpstreamAnswer, key: Secret | None, world: World) -> XRouterError:
    """The error that an answer other than 2xx stands for. The upstream's text reaches a client only if it explains a 400."""
    try:
        body = decode_json(answer.body)
    except (ValueError, RecursionError):
        body = None
    inner = body.get("error", body) if isinstance(body, dict) else None
    code, said = _said(inner, key)
    return _meaning(answer.status, code, said, inner is not None, retry_after_s(answer.headers, world))


def error_inside(inner: Any, key: Secret | None) -> XRouterError:
    """The error that an error object inside a 2xx answer or a stream stands for."""
    code, said = _said(inner, key)
    status = inner.get("code") if isinstance(inner, dict) else None
    return _meaning(status if isinstance(status, int) and 400 <= status < 600 else 502, code, said, True, None)


def _said(inner: Any, key: Secret | None) -> tuple[str, str]:
    """The upstream's code (or type) and its message, fit to show."""
    secrets = [key.reveal()] if key else []
    if isinstance(inner, str):
        return "", safe_text(inner, secrets)
    if not isinstance(inner, dict):
        return "", ""
    code = inner.get("code") if isinstance(inner.get("code"), str) else inner.get("type")
    message = inner.get("message")
    return code if isinstance(code, str) else "", safe_text(message, secrets) if isinstance(message, str) else ""


def _meaning(status: int, code: str, said: str, json: bool, wait_s: float | None) -> XRouterError:
    detail = f"the upstream answered {status}: {said or 'no message'}"
    match status:
        case 400 | 422 if json:
            if code in _CONTEXT_CODES or "context length" in said.lower():
                return ContextLengthExceeded(said or None, detail=detail)
            return BadRequest(f"The upstream refused the request: {said}" if said else None, detail=detail)
        case 401:
            return UpstreamAuthError(retry=False, upstream_status=status, detail=detail)
        case 402:
            return UpstreamQuotaExhausted(upstream_status=status, detail=detail)
        case 403 if json:
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
        case 408 | 504:
            return UpstreamTimeout(upstream_status=status, retry_after_s=wait_s, detail=detail)
        case 413 if json:
            return ContextLengthExceeded(detail=detail)
        case 429 if code == "insufficient_quota":
            return UpstreamQuotaExhausted(upstream_status=status, detail=detail)
        case 429:
            return UpstreamError(
                "The upstream is at its limit",
                status=429,
                type="rate_limit_exceeded",
                upstream_status=status,
                retry_after_s=wait_s,
                detail=detail,
                metadata={"error_type": "rate_limit_exceeded"},
            )
        case _ if status >= 500:
            return UpstreamError(
                status=503 if status == 503 else 502, upstream_status=status, retry_after_s=wait_s, detail=detail
            )
    return UpstreamProtocolError(retry=False, upstream_status=status, detail=detail)

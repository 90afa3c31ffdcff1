"""What an OpenAI-compatible upstream's failures mean."""

from collections.abc import Sequence
from typing import Any, Final

from xrouter.errors import ContextLengthExceeded, UpstreamQuotaExhausted, XRouterError
from xrouter.providers.failures import status_error
from xrouter.providers.retry_after import retry_after_s
from xrouter.providers.safe_text import safe_text
from xrouter.secret import Secret
from xrouter.upstream.base import UpstreamAnswer
from xrouter.wire import decode_json
from xrouter.world import World

_CONTEXT_CODES: Final = frozenset({"context_length_exceeded", "string_above_max_length"})


def error_from(answer: UpstreamAnswer, keys: Sequence[Secret], world: World) -> XRouterError:
    """The error that an answer other than 2xx stands for. The upstream's text reaches a client only if it explains a 400."""
    try:
        body = decode_json(answer.body)
    except (ValueError, RecursionError):
        body = None
    inner = body.get("error", body) if isinstance(body, dict) else None
    code, said = _said(inner, keys)
    return _meaning(answer.status, code, said, inner is not None, retry_after_s(answer.headers, world))


def error_inside(inner: Any, keys: Sequence[Secret]) -> XRouterError:
    """The error that an error object inside a 2xx answer or a stream stands for."""
    code, said = _said(inner, keys)
    status = inner.get("code") if isinstance(inner, dict) else None
    return _meaning(status if isinstance(status, int) and 400 <= status < 600 else 502, code, said, True, None)


def _said(inner: Any, keys: Sequence[Secret]) -> tuple[str, str]:
    """The upstream's code (or type) and its message, fit to show."""
    secrets = [key.reveal() for key in keys]
    if isinstance(inner, str):
        return "", safe_text(inner, secrets)
    if not isinstance(inner, dict):
        return "", ""
    code = inner.get("code") if isinstance(inner.get("code"), str) else inner.get("type")
    message = inner.get("message")
    return code if isinstance(code, str) else "", safe_text(message, secrets) if isinstance(message, str) else ""


def _meaning(status: int, code: str, said: str, json: bool, wait_s: float | None) -> XRouterError:
    detail = f"the upstream answered {status}: {said or 'no message'}"
    if status in (400, 413, 422) and json and (code in _CONTEXT_CODES or "context length" in said.lower()):
        return ContextLengthExceeded(said or None, detail=detail)
    if status == 429 and code == "insufficient_quota":
        return UpstreamQuotaExhausted(upstream_status=status, detail=detail)
    return status_error(status, said, json=json, wait_s=wait_s, detail=detail)

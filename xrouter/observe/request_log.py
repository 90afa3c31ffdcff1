"""The one log line of a request: ids, model, upstream, status, tokens and times. No content, no secrets."""

from typing import Final

from msgspec import Struct

from xrouter.context import Attempt, Outcome, RequestContext
from xrouter.errors import XRouterError


class AttemptRecord(Struct, omit_defaults=True):
    upstream: str
    model: str
    status: int
    ms: float
    error: str | None = None
    reason: str = "first"
    credential: int | None = 0


class RequestRecord(Struct, omit_defaults=True):
    """Times are in milliseconds, `ts` in seconds since the epoch; what is not known is left out."""

    ts: float
    level: str
    request_id: str
    endpoint: str
    status: int
    duration_ms: float
    client_ip: str
    event: str | None = None
    generation_id: str | None = None
    key_id: str | None = None
    account: str | None = None
    model: str | None = None
    stream: bool | None = None
    overhead_ms: float | None = None
    outcome: str | None = None
    upstream: str | None = None
    upstream_model: str | None = None
    upstream_id: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    usage_source: str | None = None
    cost_nano: int | None = None
    first_token_ms: float | None = None
    shadow_limits: list[str] | None = None
    attempts: list[AttemptRecord] | None = None
    error: str | None = None
    origin: str | None = None
    message: str | None = None
    detail: str | None = None


_NO_OUTCOME: Final = Outcome("complete", None, None)  # in the place of one where the request never came to a call


def request_record(
    ctx: RequestContext, status: int, seconds: float, overhead_s: float | None, error: XRouterError | None
) -> RequestRecord:
    principal = ctx.principal if "principal" in ctx else None
    call = ctx.call if "call" in ctx else None
    outcome = ctx.outcome if "outcome" in ctx else _NO_OUTCOME
    usage, target = outcome.usage, outcome.target
    record = RequestRecord(
        ts=int(ctx.started_at * 1000 + 0.5) / 1000,
        level="info" if status < 500 else "warning",
        event="request",
        request_id=ctx.request_id,
        endpoint=ctx.endpoint.name,
        status=status,
        duration_ms=_ms(seconds),
        client_ip=ctx.client_ip,
        shadow_limits=ctx.shadow_limits,
        generation_id=ctx.generation_id if ctx.endpoint.inference else None,
        key_id=None if principal is None else principal.key_id,
        account=None if principal is None else principal.account,
        model=None if call is None else call.models[0][:128],
        stream=None if call is None else call.stream,
        overhead_ms=None if overhead_s is None else _ms(overhead_s),
        outcome=None if outcome is _NO_OUTCOME else outcome.end,
        upstream=None if target is None else target.upstream,
        upstream_model=None if target is None else outcome.upstream_model or target.model,
        upstream_id=outcome.upstream_id or None,
        finish_reason=outcome.finish_reason,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        cached_tokens=None if usage is None else usage.cached_tokens,
        usage_source=None if usage is None else usage.source,
        cost_nano=ctx.quote.cost(usage, target) if usage is not None and "quote" in ctx else None,
        first_token_ms=None if outcome.first_token_s is None else _ms(outcome.first_token_s),
    )
    if len(outcome.attempts) > 1 or outcome.end != "complete":
        record.attempts = [_attempt(attempt) for attempt in outcome.attempts]
    if error is not None:
        record.error, record.origin, record.message = error.type, error.origin.value, error.message
        record.detail = error.detail
    return record


def _attempt(attempt: Attempt) -> AttemptRecord:
    return AttemptRecord(
        attempt.upstream,
        attempt.model,
        attempt.status,
        _ms(attempt.duration_s),
        attempt.error,
        attempt.reason,
        attempt.credential,
    )


def _ms(seconds: float) -> float:
    """Rounded to three places: a fifth of what `round` takes, which goes by way of a decimal text."""
    return int(seconds * 1_000_000 + 0.5) / 1000

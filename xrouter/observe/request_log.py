"""The one log line of a request: ids, model, upstream, status, tokens and times. No content, no secrets."""

from msgspec import Struct

from xrouter.context import Attempt, RequestContext
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


def request_record(
    ctx: RequestContext, status: int, seconds: float, overhead_s: float | None, error: XRouterError | None
) -> RequestRecord:
    record = RequestRecord(
        ts=round(ctx.started_at, 3),
        level="info" if status < 500 else "warning",
        event="request",
        request_id=ctx.request_id,
        endpoint=ctx.endpoint.name,
        status=status,
        duration_ms=_ms(seconds),
        client_ip=ctx.client_ip,
        shadow_limits=ctx.shadow_limits,
    )
    if ctx.endpoint.inference:
        record.generation_id = ctx.generation_id
    if ctx.provided("principal"):
        record.key_id, record.account = ctx.principal.key_id, ctx.principal.account
    if ctx.provided("call"):
        record.model, record.stream = ctx.call.models[0][:128], ctx.call.stream
    if overhead_s is not None:
        record.overhead_ms = _ms(overhead_s)
    if ctx.provided("outcome"):
        _add_outcome(record, ctx)
    if error is not None:
        record.error, record.origin, record.message = error.type, error.origin.value, error.message
        record.detail = error.detail
    return record


def _add_outcome(record: RequestRecord, ctx: RequestContext) -> None:
    outcome = ctx.outcome
    record.outcome = outcome.end
    if target := outcome.target:
        record.upstream, record.upstream_model = target.upstream, outcome.upstream_model or target.model
    record.upstream_id = outcome.upstream_id or None
    record.finish_reason = outcome.finish_reason
    if usage := outcome.usage:
        record.input_tokens, record.output_tokens = usage.input_tokens, usage.output_tokens
        record.cached_tokens, record.usage_source = usage.cached_tokens, usage.source
        if ctx.provided("quote"):
            record.cost_nano = ctx.quote.cost(usage, outcome.target)
    if outcome.first_token_s is not None:
        record.first_token_ms = _ms(outcome.first_token_s)
    if len(outcome.attempts) > 1 or outcome.end != "complete":
        record.attempts = [_attempt(attempt) for attempt in outcome.attempts]


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
    return round(seconds * 1000, 3)

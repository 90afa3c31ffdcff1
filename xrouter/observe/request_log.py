"""The one log line of a request: ids, model, upstream, status, tokens and times. No content, no secrets."""

from typing import Any

from xrouter.context import RequestContext
from xrouter.errors import XRouterError


def request_record(
    ctx: RequestContext, status: int, seconds: float, overhead_s: float | None, error: XRouterError | None
) -> dict[str, Any]:
    """The line's object. Times are in milliseconds; what is not known is left out."""
    record: dict[str, Any] = {
        "ts": round(ctx.started_at, 3),
        "level": "info" if status < 500 else "warning",
        "event": "request",
        "request_id": ctx.request_id,
        "endpoint": ctx.endpoint.name,
        "status": status,
        "duration_ms": _ms(seconds),
        "client_ip": ctx.client_ip,
    }
    if ctx.endpoint.inference:
        record["generation_id"] = ctx.generation_id
    if ctx.provided("principal"):
        record |= {"key_id": ctx.principal.key_id, "account": ctx.principal.account}
    if ctx.provided("call"):
        record |= {"model": ctx.call.models[0][:128], "stream": ctx.call.stream}
    if overhead_s is not None:
        record["overhead_ms"] = _ms(overhead_s)
    if ctx.provided("outcome"):
        record |= _outcome(ctx)
    if error is not None:
        record |= {"error": error.type, "origin": error.origin.value, "message": error.message}
        if error.detail:
            record["detail"] = error.detail
    return record


def _outcome(ctx: RequestContext) -> dict[str, Any]:
    outcome = ctx.outcome
    record: dict[str, Any] = {"outcome": outcome.end}
    if outcome.target is not None:
        record |= {
            "upstream": outcome.target.upstream,
            "upstream_model": outcome.upstream_model or outcome.target.model,
        }
    if outcome.upstream_id:
        record["upstream_id"] = outcome.upstream_id
    if outcome.finish_reason:
        record["finish_reason"] = outcome.finish_reason
    if usage := outcome.usage:
        record |= {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "usage_source": usage.source,
        }
        if usage.cached_tokens is not None:
            record["cached_tokens"] = usage.cached_tokens
        if ctx.provided("quote"):
            record["cost_nano"] = ctx.quote.cost(usage)
    if outcome.first_token_s is not None:
        record["first_token_ms"] = _ms(outcome.first_token_s)
    if len(outcome.attempts) > 1 or outcome.end != "complete":
        record["attempts"] = [
            {
                "upstream": attempt.upstream,
                "model": attempt.model,
                "status": attempt.status,
                "error": attempt.error,
                "ms": _ms(attempt.duration_s),
            }
            for attempt in outcome.attempts
        ]
    return record


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

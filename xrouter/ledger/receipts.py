"""What a person needs to understand a charge, kept with its generation as JSON (`generations.details`)."""

from typing import Any, Final

import msgspec

from xrouter.config.version import InForce
from xrouter.context import Attempt, Outcome, RequestContext
from xrouter.ledger.decisions import Decision, decisions, in_micros
from xrouter.ledger.parameters import parameters
from xrouter.store.retention import DROPPED

_LONGEST: Final = 512  # characters of any text that came from outside
_MOST_ATTEMPTS: Final = 100
_APP_HEADERS: Final = {
    b"http-referer": "referer",  # OpenRouter's name for it
    b"referer": "referer",
    b"x-title": "title",
    b"x-openrouter-title": "title",
    b"user-agent": "user_agent",
}


class AttemptRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One try at one upstream. Times are seconds, `started_s` since the request came."""

    upstream: str
    model: str
    status: int
    error: str | None = None
    kind: str | None = None
    started_s: float = 0.0
    duration_s: float = 0.0
    reason: str = "first"  # as Attempt.reason
    credential: int | None = 0


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    request_id: str
    endpoint: str  # chat | completions | embeddings
    requested: str  # the model as the client named it
    streamed: bool
    duration_s: float
    first_token_s: float | None = None
    upstream_id: str | None = None
    served_model: str | None = None  # as the provider names it
    native_finish_reason: str | None = None
    error: str | None = None  # its type
    pieces: int = 0  # in which the answer came from the upstream
    overhead_s: float | None = None  # the gateway's own part of `first_token_s`
    configuration: InForce | None = None
    parameters: dict[str, Any] | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    decisions: tuple[Decision, ...] = ()
    output_cap: int | None = None  # max_tokens as it was sent upstream, if the balance set it
    session_id: str | None = None
    user: str | None = None
    client_ip: str = ""
    referer: str | None = None
    title: str | None = None
    user_agent: str | None = None


def read_details(text: str) -> Details | None:
    """None if they have been dropped (`ledger.keep_details_days`)."""
    return None if text == DROPPED else _decode(text)


_decode: Final = msgspec.json.Decoder(Details).decode
_encode: Final = msgspec.json.Encoder().encode


def details(
    ctx: RequestContext,
    outcome: Outcome,
    headers: list[tuple[bytes, bytes]],
    *,
    duration_s: float,
    output_cap: int | None,
    held_nano: int | None,
    configuration: InForce | None,
) -> str:
    """The details of a request as JSON. `headers` are the request's; `held_nano` is what was held for it, None: nothing."""
    request, app, first_token_s = ctx.call.request, _app(headers), outcome.first_token_s
    record = Details(
        request_id=ctx.request_id,
        endpoint=ctx.endpoint.name,
        requested=_kept(ctx.route.requested) or "",
        streamed=ctx.call.stream,
        duration_s=in_micros(duration_s),
        first_token_s=None if first_token_s is None else in_micros(first_token_s),
        upstream_id=_kept(outcome.upstream_id),
        served_model=_kept(outcome.upstream_model),
        native_finish_reason=_kept(outcome.native_finish_reason),
        error=outcome.error.type if outcome.error else None,
        pieces=outcome.pieces,
        overhead_s=None if first_token_s is None else in_micros(max(0.0, first_token_s - ctx.upstream_s)),
        configuration=configuration,
        parameters=parameters(ctx.call, output_cap),
        attempts=tuple(map(_attempt, outcome.attempts[:_MOST_ATTEMPTS])),
        decisions=decisions(ctx, held_nano),
        output_cap=output_cap,
        session_id=_kept(ctx.session_id or request.session_id),
        user=_kept(request.user),
        client_ip=ctx.client_ip,
        referer=app.get("referer"),
        title=app.get("title"),
        user_agent=app.get("user_agent"),
    )
    return _encode(record).decode()


def _kept(text: str | None) -> str | None:
    """What is kept of a text that a client or an upstream has written: never so much, or so odd, that a charge fails."""
    if text is None or (len(text) <= _LONGEST and text.isascii()):
        return text
    return text[:_LONGEST].encode("utf-8", "replace").decode()


def _attempt(attempt: Attempt) -> AttemptRecord:
    return AttemptRecord(
        attempt.upstream,
        attempt.model,
        attempt.status,
        attempt.error,
        attempt.kind,
        in_micros(attempt.started_s),
        in_micros(attempt.duration_s),
        attempt.reason,
        attempt.credential,
    )


def _app(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Which application asked, as far as it says so."""
    found: dict[str, str] = {}
    for name, value in headers:
        field = _APP_HEADERS.get(name)
        if field is not None and field not in found:
            found[field] = value.decode("latin-1")[:_LONGEST]
    return found

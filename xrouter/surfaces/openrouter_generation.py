"""`GET generation`: what one generation cost and why, in OpenRouter's shape, and under `xrouter` all that it leaves out.

Shape: openrouter-api.md sections 7 and 10. What the operator pays to providers is told to the operator alone.
"""

from typing import Any, Final

from xrouter.config.version import InForce
from xrouter.context import Principal
from xrouter.errors import BadRequest, NotFound
from xrouter.filters.base import Services
from xrouter.ledger.prices import Rates, read_sheet
from xrouter.ledger.receipts import AttemptRecord, Details, read_details
from xrouter.store.ledger_rows import Generation
from xrouter.store.receipts import Receipt, read_receipt
from xrouter.surfaces.base import credits
from xrouter.surfaces.openrouter_rates import cost_lines, rates_object
from xrouter.surfaces.times import iso_time

_LONGEST_ID: Final = 30
_API_TYPES: Final = {"chat": "completions", "completions": "completions", "embeddings": "embeddings"}
_REGION: Final = "global"  # the gateway keeps nothing that says where its upstreams are
_NEVER: Final = (
    "app_id",
    "moderation_latency",
    "native_tokens_completion_images",
    "num_fetches",
    "num_input_audio_prompt",
    "num_media_completion",
    "num_search_results",
    "preset_id",
    "response_cache_source_id",
    "router",
    "service_tier",
    "upstream_inference_cost",
    "web_search_engine",
)
"""Fields of the shape for things that XRouter does not do. They must be there, and are null."""


_NO_DETAILS: Final = Details(request_id="", endpoint="", requested="", streamed=False, duration_s=0.0)


class GenerationShapes:
    def __init__(self, services: Services) -> None:
        self._store = services.store

    async def generation(self, principal: Principal, generation_id: str | None) -> dict[str, Any]:
        """Raises NotFound for one that has not ended, never was, or belongs to another account: all the same."""
        if not generation_id:
            raise BadRequest("The query needs `id`, a generation's id", param="id")
        account = None if principal.operator else principal.account
        known = len(generation_id) <= _LONGEST_ID and generation_id.isascii()
        receipt = await read_receipt(self._store, generation_id, account) if known else None
        if receipt is None:
            raise NotFound(f"There is no generation {generation_id[:64]!r}", param="id")
        return {"data": _shape(receipt, read_details(receipt.generation.details), operator=principal.operator)}


def _shape(receipt: Receipt, kept: Details | None, *, operator: bool) -> dict[str, Any]:
    """`kept` is None where the details have been dropped: what they told is then null, and `xrouter.dropped` says so."""
    row, details = receipt.generation, kept or _NO_DETAILS
    rates, _ = read_sheet(receipt.price.rates)
    return {
        **dict.fromkeys(_NEVER),
        "id": row.id,
        "upstream_id": details.upstream_id,
        "request_id": details.request_id or None,
        "session_id": details.session_id,
        "created_at": iso_time(row.created_at_us),
        "api_type": _API_TYPES.get(details.endpoint),
        "model": row.model,
        "provider_name": row.upstream,
        "provider_responses": [_attempt(attempt, row, details) for attempt in details.attempts],
        "origin": details.referer or "",
        "http_referer": details.referer,
        "user_agent": details.user_agent,
        "external_user": details.user,
        "workspace_id": row.account,
        "data_region": _REGION,
        "is_byok": False,
        "streamed": details.streamed if kept else None,
        "cancelled": row.outcome == "client_abort",
        "finish_reason": row.finish_reason,
        "native_finish_reason": details.native_finish_reason,
        "latency": _ms(details.first_token_s),
        "generation_time": _generation_ms(details),
        "tokens_prompt": row.input_tokens,
        "tokens_completion": row.output_tokens,
        "native_tokens_prompt": row.input_tokens,
        "native_tokens_completion": row.output_tokens,
        "native_tokens_cached": row.cached_tokens,
        "native_tokens_reasoning": row.reasoning_tokens,
        "num_media_prompt": row.images or None,
        "total_cost": credits(row.charged_nano),
        "usage": credits(row.charged_nano),
        "cache_discount": _cache_discount(row, rates),
        "xrouter": {
            **_receipt(receipt, details, operator=operator),
            "dropped": [*(() if kept else ("details",)), *(("hold",) if _hold_dropped(receipt) else ())],
        },
    }


def _attempt(attempt: AttemptRecord, row: Generation, details: Details) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "status": attempt.status or None,
        "provider_name": attempt.upstream,
        "model_permaslug": attempt.model,
        "endpoint_id": attempt.upstream,
        "latency": _ms(attempt.duration_s),
        "is_byok": False,
    }
    if attempt.error is None and details.upstream_id is not None and attempt is details.attempts[-1]:
        shape["id"] = details.upstream_id
    return shape


def _receipt(receipt: Receipt, details: Details, *, operator: bool) -> dict[str, Any]:
    """XRouter's own part: enough to compute the charge again."""
    row, price = receipt.generation, receipt.price
    rates, provider_rates = read_sheet(price.rates)
    shape: dict[str, Any] = {
        "outcome": row.outcome,
        "rule": row.rule,
        "error": details.error,
        "requested_model": details.requested or None,
        "upstream_model": row.upstream_model,
        "served_model": details.served_model,
        "title": details.title,
        "client_ip": details.client_ip or None,
        "output_cap": details.output_cap,
        "parameters": details.parameters or {},
        "pieces": details.pieces or None,
        "overhead_ms": _ms(details.overhead_s),
        "configuration": _configuration(details.configuration),
        "settled_at": iso_time(row.settled_at_us),
        "duration_ms": _ms(details.duration_s) if details.request_id else None,
        "key": {"hash": row.key_hash, "name": receipt.key_name, "label": receipt.key_label},
        "usage": {
            "source": row.usage_source,
            "input_tokens": row.input_tokens,
            "cached_tokens": row.cached_tokens,
            "output_tokens": row.output_tokens,
            "reasoning_tokens": row.reasoning_tokens,
            "images": row.images,
        },
        "price": {
            "version": price.version,
            "model": price.model,
            "since": price.since,
            "rates": rates_object(rates),
        },
        "lines": cost_lines(row, rates),
        "cost": credits(row.cost_nano),
        "charged": credits(row.charged_nano),
        "overrun": credits(row.overrun_nano),
        "hold": _hold(receipt),
        "entries": [
            {
                "id": entry.id,
                "at": iso_time(entry.at_us),
                "kind": entry.kind,
                "debit": entry.debit_account,
                "credit": entry.credit_account,
                "amount": credits(entry.amount_nano),
                "reason": entry.reason,
            }
            for entry in receipt.entries
            if operator or entry.kind != "cost"
        ],
        "attempts": [
            {
                "upstream": attempt.upstream,
                "model": attempt.model,
                "reason": attempt.reason,
                "credential": attempt.credential,
                "status": attempt.status or None,
                "error": attempt.error,
                "kind": attempt.kind,
                "started_ms": _ms(attempt.started_s),
                "duration_ms": _ms(attempt.duration_s),
            }
            for attempt in details.attempts
        ],
        "decisions": [
            {
                "filter": made.filter,
                "decision": made.decision,
                "duration_ms": None if made.duration_s is None else _ms(made.duration_s),
            }
            for made in details.decisions
        ],
    }
    if operator:
        shape["provider_cost"] = credits(row.provider_cost_nano)
        shape["provider_rates"] = None if provider_rates is None else rates_object(provider_rates)
    return shape


def _configuration(found: InForce | None) -> dict[str, Any] | None:
    return None if found is None else {"version": found.version, "since": iso_time(found.since_s * 1_000_000)}


def _hold_dropped(receipt: Receipt) -> bool:
    """A hold that was open at the settlement has its amount in the generation, for ever."""
    return receipt.hold is None and receipt.generation.hold_nano > 0


def _hold(receipt: Receipt) -> dict[str, Any] | None:
    if _hold_dropped(receipt):
        return {
            "amount": credits(receipt.generation.hold_nano),
            "state": "released" if receipt.generation.input_tokens is None else "settled",
            "opened_at": None,
            "closed_at": iso_time(receipt.generation.settled_at_us),
        }
    if receipt.hold is None:
        return None
    closed = receipt.hold.closed_at_us
    return {
        "amount": credits(receipt.generation.hold_nano),
        "state": receipt.hold.state,
        "opened_at": iso_time(receipt.hold.opened_at_us),
        "closed_at": None if closed is None else iso_time(closed),
    }


def _cache_discount(row: Generation, rates: Rates) -> Any:
    """What the cached tokens would have cost more if they had been sent anew; null where none were."""
    if not row.cached_tokens:
        return None
    cached = min(row.cached_tokens, row.input_tokens or 0)
    return credits(cached * (rates.input - rates.cached_input) // rates.denominator)


def _generation_ms(details: Details) -> float | None:
    if details.first_token_s is None:
        return None
    return _ms(max(0.0, details.duration_s - details.first_token_s))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)

"""Which of a model's routes may serve a request, and for each that may not the reason why."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

from xrouter.context import Call
from xrouter.ledger.prices import Rates
from xrouter.routing.options import Option
from xrouter.store.amounts import NANO_PER_CREDIT
from xrouter.wire import ChatRequest, MaxPrice, ProviderPreferences

_NANO_PER_TOKEN: Final = NANO_PER_CREDIT // 10**6  # of one credit per million tokens
# Fields of a request that every upstream serves or that the gateway answers itself: never a reason to leave one out.
_ALWAYS_HONOURED: Final = frozenset(
    {
        "model", "models", "messages", "prompt", "input", "stream", "stream_options", "provider", "user", "session_id",
        "prompt_cache_key", "metadata", "usage", "route", "trace", "transforms", "preset",
    }
)  # fmt: skip


class Reason(StrEnum):
    """Why a route is left out, in the words of what the client or the operator wrote."""

    TIER = "tier.upstreams"
    ONLY = "provider.only"
    IGNORE = "provider.ignore"
    DATA_COLLECTION = "provider.data_collection"
    ZDR = "provider.zdr"
    REQUIRE_PARAMETERS = "provider.require_parameters"
    MAX_PRICE = "provider.max_price"
    ALLOW_FALLBACKS = "provider.allow_fallbacks"
    FALLBACK = "routing.fallback"


Check = Callable[[Option], bool]
"""Whether a route passes."""


def checks(
    call: Call,
    preferences: ProviderPreferences | None,
    upstreams: frozenset[str] | None,
    rates: Callable[[Option], Rates],
) -> list[tuple[Reason, Check]]:
    """What this request demands of a route. `upstreams`: those that serve the key's tier; `rates`: a route's price now."""
    made: list[tuple[Reason, Check]] = []
    if upstreams is not None:
        made.append((Reason.TIER, lambda option: option.target.upstream in upstreams))
    if preferences is None:
        return made
    if preferences.only is not None:
        only = frozenset(preferences.only)
        made.append((Reason.ONLY, lambda option: not only.isdisjoint(option.names)))
    if preferences.ignore:
        ignored = frozenset(preferences.ignore)
        made.append((Reason.IGNORE, lambda option: ignored.isdisjoint(option.names)))
    if preferences.data_collection == "deny":
        made.append((Reason.DATA_COLLECTION, lambda option: not option.keeps_data))
    if preferences.zdr:
        made.append((Reason.ZDR, lambda option: option.zdr))
    if preferences.require_parameters:
        asked = asked_parameters(call)
        made.append((Reason.REQUIRE_PARAMETERS, lambda option: asked <= option.parameters))
    if (most := preferences.max_price) is not None:
        made.append((Reason.MAX_PRICE, lambda option: within(rates(option), most)))
    return made


def reason_against(option: Option, demands: Sequence[tuple[Reason, Check]]) -> Reason | None:
    for reason, passes in demands:
        if not passes(option):
            return reason
    return None


def within(rates: Rates, most: MaxPrice) -> bool:
    """Whether nothing costs more than the client will pay: credits per million tokens, per request, per image."""
    limits = (
        (rates.input, most.prompt, _NANO_PER_TOKEN),
        (rates.output, most.completion, _NANO_PER_TOKEN),
        (rates.request, most.request, NANO_PER_CREDIT),
        (rates.image, most.image, NANO_PER_CREDIT),
    )
    return all(limit is None or rate <= limit * nano * rates.denominator for rate, limit, nano in limits)


def needs_images(call: Call) -> bool:
    request = call.request
    if not isinstance(request, ChatRequest):
        return False
    for message in request.messages:
        if isinstance(message.content, list) and any(part.type == "image_url" for part in message.content):
            return True
    return False


def asked_parameters(call: Call) -> frozenset[str]:
    """The request's fields that an upstream has to honour under `provider.require_parameters`."""
    asked = {name for name, value in call.body.items() if value is not None} - _ALWAYS_HONOURED
    response_format = getattr(call.request, "response_format", None)
    if response_format is not None and response_format.type == "json_schema":
        asked.add("structured_outputs")
    return frozenset(asked)

"""`POST tokens/count`: how many tokens a request would send, by the provider's own count where it has one. Free.

The body is a chat's (`messages`, `tools`), a completion's (`prompt`), or has `input`: a text or a list of texts.
"""

import asyncio
import logging
from typing import Any, Final

from xrouter import tokens
from xrouter.context import Call, RequestContext, Target
from xrouter.errors import BadRequest, UpstreamError
from xrouter.filters.base import Services
from xrouter.providers.base import CountExchange, Purpose
from xrouter.surfaces.openai import read_call
from xrouter.surfaces.openrouter_models import ModelShapes
from xrouter.surfaces.strict_json import decode_object
from xrouter.upstream.caller import Caller

_log = logging.getLogger(__name__)
MOST_BYTES: Final = 1024 * 1024
_MOST_TEXTS: Final = 128
_PATIENCE_S: Final = 5.0  # an upstream that takes longer, its queue included, is not asked on: an estimate is at hand


class TokenShapes:
    def __init__(self, services: Services, models: ModelShapes) -> None:
        self._models = models
        self._catalog = services.catalog
        self._upstreams = services.upstreams
        self._health = services.health

    async def count(self, ctx: RequestContext, raw: bytes) -> dict[str, Any]:
        """Raises BadRequest and ModelNotFound as the request itself would."""
        call = _read(raw)
        name = call.models[0]
        entry = self._models.entry(ctx.principal, name)
        targets = self._catalog.targets(ctx.principal, entry)
        for target in targets:
            purpose = Purpose(ctx.generation_id, ctx.request_id, ctx.principal.key_id, entry.settings)
            counted = await self._ask(ctx, call, target, purpose)
            if counted is not None:
                return _shape(name, sum(counted), counted, "provider", target.upstream, call)
        rates = tokens.profile(targets[0].model)
        return _shape(name, rates.count_call(call), [*map(rates.count, call.prompt())], "estimated", None, call)

    async def _ask(self, ctx: RequestContext, call: Call, target: Target, purpose: Purpose) -> list[int] | None:
        """What the provider counts; None if it cannot count these, or does not answer in time."""
        upstream = self._upstreams[target.upstream]
        exchange = upstream.provider.count(call, target, purpose)
        if exchange is None or not self._health.admits((target.upstream, target.model)):
            return None
        try:
            caller = upstream.credentials.choose(target.model).caller
            async with asyncio.timeout(_PATIENCE_S), caller.gate.place(ctx.principal.account):
                return await _run(exchange, caller)
        except (UpstreamError, TimeoutError) as error:
            _log.info(
                "request %s: tokens are estimated, %s did not count them: %s", ctx.request_id, target.upstream, error
            )
            return None


async def _run(exchange: CountExchange, caller: Caller) -> list[int]:
    try:
        request = next(exchange)
        while True:
            request = exchange.send(await caller.fetch(request))
    except StopIteration as done:
        return list(done.value)


def _read(raw: bytes) -> Call:
    """The call whose tokens are counted. What only the answer depends on (`stream`, `max_tokens`, …) is no matter."""
    body = decode_object(raw)
    forms = [name for name in ("messages", "prompt", "input") if name in body]
    if len(forms) != 1:
        raise BadRequest(
            "The body holds one of `messages`, `prompt` and `input`", param=forms[1] if forms else "messages"
        )
    kind = {"messages": "chat", "prompt": "completions", "input": "embeddings"}[forms[0]]
    call = read_call(kind, raw)
    if forms[0] == "input" and not _are_texts(body["input"]):
        raise BadRequest("`input` is a text or a list of texts", param="input")
    if kind != "chat" and len(call.prompt()) > _MOST_TEXTS:
        raise BadRequest(f"At most {_MOST_TEXTS} texts are counted at once", param=forms[0])
    return call


def _are_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _shape(model: str, total: int, counts: list[int], source: str, upstream: str | None, call: Call) -> dict[str, Any]:
    """`counts` are of the texts, each by itself; a chat's total has its template too, where that is known."""
    shape: dict[str, Any] = {
        "object": "tokens",
        "model": model,
        "input_tokens": total,
        "source": source,
        "upstream": upstream,
    }
    if call.kind != "chat":
        shape["counts"] = counts
    return shape

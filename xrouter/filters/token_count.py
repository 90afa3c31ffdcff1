"""Count the tokens of the request, before any provider has."""

from dataclasses import dataclass
from typing import Any, ClassVar

from xrouter import tokens
from xrouter.context import Estimate, context
from xrouter.filters.base import ASGIApp, Receive, Scope, Send
from xrouter.limits.admission import reserve


class TokenCount:
    """Provide `estimate`: input tokens by the local counter, and the bound on output that the client set.

    Below `routing` it counts by the rates of the model that comes first, above it by those of the model's public name.

    Limits that go by tokens can be taken from now on, so `rate_limit`, if it is in the chain, is asked here.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"call"})
    provides: ClassVar[frozenset[str]] = frozenset({"estimate"})

    @dataclass(frozen=True, slots=True)
    class Config:
        """Nothing to choose."""

    def __init__(self, app: ASGIApp, config: Config, services: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        call = ctx.call
        rates = tokens.profile(ctx.route.targets[0].model if "route" in ctx else call.models[0])
        ctx.estimate = Estimate(rates.count_call(call), call.request.output_cap(), rates.count)
        await reserve(ctx)
        await self.app(scope, receive, send)

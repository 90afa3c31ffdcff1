"""At most so many requests, tokens, credits and simultaneous requests."""

from dataclasses import dataclass
from typing import ClassVar

from xrouter.config.settings import FilterEntry, Settings
from xrouter.context import context
from xrouter.filters.base import ASGIApp, Receive, Scope, Send, Services
from xrouter.limits.admission import Admission, Terms
from xrouter.limits.limiter import Limiter, OnStoreFailure
from xrouter.limits.rules import LimitSettings, Rules


class RateLimit:
    """Admit a request if all limits of its caller have room for it. Refuse it with 429, naming the limit, otherwise.

    The limits are those of the key's tier and those of `limits`. When and how each is taken: xrouter.limits.admission.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"principal"})
    provides: ClassVar[frozenset[str]] = frozenset()

    @dataclass(frozen=True, slots=True)
    class Config:
        on_store_failure: OnStoreFailure = "local_share"
        limits: tuple[LimitSettings, ...] = ()
        assumed_output_tokens: int = 500  # reserved for an answer without max_tokens
        gateways: int = 1  # that share the Redis, each with as many workers as this one

        def __post_init__(self) -> None:
            if self.gateways < 1:
                raise ValueError("gateways is at least 1")
            if self.assumed_output_tokens < 0:
                raise ValueError("assumed_output_tokens is not negative")
            Rules({}, self.limits)  # its ValueError is a problem of this entry

    def __init__(self, app: ASGIApp, config: Config, services: Services) -> None:
        settings = services.settings
        self.app, self.config = app, config
        rules = Rules(settings.tiers, config.limits)
        processes = settings.server.workers * config.gateways
        limiter = Limiter(services.limits, config.on_store_failure, processes, services.world)
        self.terms = Terms(rules, limiter, services.catalog, services.ledger.credits_left, config.assumed_output_tokens)

    @classmethod
    def misfit(cls, entry: FilterEntry, settings: Settings) -> str | None:
        """What is wrong with this entry beside the rest of the file: told at its line when that is read."""
        first = next(other for other in settings.filters if other.filter is cls)
        if first is not entry:
            return f"rate_limit stands in the chain once: its limits go into the list at {first.place}"
        counted = any("estimate" in other.filter.provides for other in settings.filters)
        if Rules(settings.tiers, entry.config.limits).need_estimate and not counted:
            return "rate_limit has limits of tokens, models or users; they need the filter token_count"
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        admission = Admission(ctx, self.terms)
        await admission.enter()
        try:
            if "estimate" in ctx:  # token_count stands above, so it could not ask
                await admission.reserve()
            await self.app(scope, receive, send)
        finally:
            admission.finish()

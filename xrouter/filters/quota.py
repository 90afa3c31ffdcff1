"""Nobody spends more than he has: credits are held before the request, charged after it."""

from dataclasses import dataclass
from typing import ClassVar

from xrouter.config.settings import DEFAULT_TIER
from xrouter.config.version import InForce, version
from xrouter.context import ClientAbort, context
from xrouter.filters.base import ASGIApp, Message, Receive, Scope, Send, Services
from xrouter.filters.idempotency import Idempotency, idempotency_name
from xrouter.ledger.billing import Billing, OnStoreFailure, Parts, count_images
from xrouter.ledger.limits import quota_limits
from xrouter.ledger.outputs import RecentOutputs
from xrouter.ledger.prices import PriceBook


class Quota:
    """Provide `quote`, the price of this request. The balance, the key's own limit and its tier's quota must afford it."""

    needs: ClassVar[frozenset[str]] = frozenset({"principal", "call", "route", "estimate"})
    provides: ClassVar[frozenset[str]] = frozenset({"quote"})

    @dataclass(frozen=True, slots=True)
    class Config:
        on_store_failure: OnStoreFailure = "deny"  # whether priced requests go on while no credits can be held
        client_abort: ClientAbort = "bill_delivered"  # what is charged, and read, once the client has left

    def __init__(self, app: ASGIApp, config: Config, services: Services) -> None:
        self.app, self.config = app, config
        self.prices = PriceBook(services.settings)
        tiers = services.settings.tiers.items()
        self.quotas = {name: quota_limits(name, tier.quota) for name, tier in tiers if tier.quota is not None}
        self.parts = Parts(
            services.ledger,
            services.world,
            services.catalog,
            RecentOutputs(),
            config.on_store_failure,
            InForce(version(services.settings), int(services.world.now())),
        )
        self.idempotency = Idempotency(services)

    async def aclose(self) -> None:
        await self.idempotency.requests.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        ctx.client_abort = self.config.client_abort
        ctx.quote = quote = self.prices.quote(ctx.route.targets, ctx.started_at, count_images(ctx.call))
        quota = self.quotas.get(ctx.principal.tier or DEFAULT_TIER, ())
        billing = Billing(self.parts, ctx, quote, scope["headers"], quota)

        async def serve(send: Send) -> None:
            async def send_settled(message: Message) -> None:
                await billing.before_sending(message)
                await send(message)

            await billing.admit()
            try:
                await self.app(scope, receive, send_settled)
            finally:
                await billing.close()

        name = idempotency_name(scope["headers"])
        if name is None:
            await serve(send)
        else:
            await self.idempotency.run(name, scope, send, billing, serve)

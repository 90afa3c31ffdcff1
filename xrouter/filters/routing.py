"""Which upstreams serve this call, in which order."""

from dataclasses import dataclass, field
from typing import ClassVar, Final

from xrouter.context import Route, context
from xrouter.filters.base import ASGIApp, Receive, Scope, Send, Services
from xrouter.retries import RetryBudgetSettings
from xrouter.routing.candidates import Asking, Chooser
from xrouter.routing.chance import session_of
from xrouter.routing.health_settings import BreakerSettings, HealthSettings, OutlierSettings
from xrouter.routing.hedge import HedgeDelay, HedgeSettings

CANDIDATES: Final = object()  # where ctx.stash has the `Candidates` that were chosen from


class Routing:
    """Provide `route`: the targets of `model` and `models[]`, as `provider` prefers them, those in trouble last."""

    needs: ClassVar[frozenset[str]] = frozenset({"principal", "call"})
    provides: ClassVar[frozenset[str]] = frozenset({"route"})

    @dataclass(frozen=True, slots=True)
    class Config:
        retries: int = 2  # rounds over the targets after the first
        fallback: bool = True  # whether another target may serve when one fails
        breaker: BreakerSettings = field(default_factory=BreakerSettings)
        outlier: OutlierSettings | None = field(default_factory=OutlierSettings)
        panic: float = 0.5
        retry_budget: RetryBudgetSettings = field(default_factory=RetryBudgetSettings)
        hedge: HedgeSettings | None = None  # ask the next target as well when the first one is slow

        def __post_init__(self) -> None:
            HealthSettings(panic=self.panic)
            if not 0 <= self.retries <= 10:
                raise ValueError("retries has to be between 0 and 10")

    def __init__(self, app: ASGIApp, config: Config, services: Services) -> None:
        self.app, self.config = app, config
        services.health.configure(HealthSettings(config.breaker, config.outlier, config.panic))
        for upstream in services.upstreams.values():
            upstream.retry_budget.configure(config.retry_budget)
        self.hedge = None if config.hedge is None else HedgeDelay(config.hedge, services.health, services.world)
        self.chooser = Chooser(
            services.settings,
            services.catalog,
            services.upstreams,
            services.health,
            services.world,
            fallback=config.fallback,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        call = ctx.call
        candidates = self.chooser.candidates(Asking(call, ctx.principal, session_of(ctx), ctx.started_at))
        ctx.stash[CANDIDATES] = candidates
        targets = candidates.ordered
        if not targets:
            raise candidates.refusal()
        ctx.route = Route(
            requested=call.request.model or targets[0].public_model,
            targets=targets,
            retries=self.config.retries,
            shadows=candidates.shadows,
            hedge_after_s=None if self.hedge is None else self.hedge.after_s(targets[0]),
        )
        await self.app(scope, receive, send)

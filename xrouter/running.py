"""What one configuration has made of itself: the chain and all that belongs to it, until its last request has ended."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xrouter.chain import Chain
from xrouter.config.settings import Settings
from xrouter.edge import Edge
from xrouter.filters.base import Services
from xrouter.observe.metrics import ServicesCollector
from xrouter.providers.upstreams import UpstreamStock
from xrouter.routing.health_settings import HealthSettings
from xrouter.routing.probes import Prober

if TYPE_CHECKING:
    from xrouter.explain.explainer import Explainer  # imported for who asks

log = logging.getLogger("xrouter.app")


@dataclass(slots=True)
class Running:
    """What one loaded configuration has made. Requests that began under it end under it."""

    services: Services
    stock: UpstreamStock  # where its upstreams go back to
    chain: Chain
    edge: Edge
    collector: ServicesCollector
    health: HealthSettings
    prober: Prober
    explainer: "Explainer | None" = None  # made for who asks
    requests: int = 0
    retired: bool = False
    closed: bool = False

    async def close_if_done(self) -> None:
        """Once it is retired and its last request has ended. A filter's failure to close keeps nothing else from it."""
        await self.prober.aclose()
        if not self.retired or self.requests or self.closed:
            return
        self.closed = True  # the request that ends last may come here too
        try:
            if self.explainer is not None:
                await self.explainer.aclose()
            await self.chain.aclose()
        except Exception as error:  # a filter of the operator's own may fail in any way
            log.error("a configuration that is no longer in force did not close: %s: %s", type(error).__name__, error)
        finally:
            await self.stock.give_back(self.services.upstreams)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A configuration that is built and started, and serves nothing yet: `Gateway.commit` it, or `Gateway.drop` it."""

    settings: Settings
    running: Running

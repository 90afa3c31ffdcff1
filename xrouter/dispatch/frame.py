"""The ASGI frame around one request's relay.

One request ends in exactly one way, written once as `ctx.outcome` before the last byte is sent, so that a filter further out
can settle before it lets that byte go: complete, client_abort, upstream_error or shutdown.
"""

import asyncio

from xrouter.context import context
from xrouter.dispatch.relay import Relay
from xrouter.dispatch.shadow import Shadows
from xrouter.filters.base import Receive, Scope, Send, Services
from xrouter.filters.body import ClientLeft
from xrouter.leaving import ClientWatch


class Dispatch:
    """Needs `call` and `route`, provides `outcome`. Raises ClientLeft where nothing was sent for that reason."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.shadows = Shadows(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        relay = Relay(self.services, ctx, send)
        watch = ClientWatch(scope, receive, relay.drains)
        relay.watch = watch
        if ctx.route.shadows:
            self.shadows.copy(ctx)
        try:
            with watch:
                await relay.serve()
        except asyncio.CancelledError:
            await relay.cut_short()
            raise
        finally:
            relay.watch = None  # no cycle is left for the collector
        if watch.left:
            relay.conclude("client_abort")
            if not relay.answer.begun:
                raise ClientLeft

    async def aclose(self) -> None:
        """Shadow copies end with the configuration that began them."""
        await self.shadows.aclose()
